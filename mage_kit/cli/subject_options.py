"""Options of the commands that measure a run: on which images, by which features, with which weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mage_kit.base.errors import MageKitError
from mage_kit.cli.app import OverwriteOption
from mage_kit.cli.decoding_options import Weights, WeightsOption
from mage_kit.cli.processes import ProcessesOption

if TYPE_CHECKING:
    from mage_kit.base.progress import Reporter

DataOption = Annotated[
    Path | None,
    typer.Option(help="Folder with train/ and val/, or with class folders; default the run's own, a fifth set aside."),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", help="Features: mean or class, @BLOCK, +norm, as class@11+norm; several times."),
]
BaselineOption = Annotated[
    bool, typer.Option("--baselines/--no-baselines", help="Measure raw pixels and the untrained encoder too.")
]


@dataclass(frozen=True)
class SubjectOptions:
    """What is evaluated, and on what."""

    data: DataOption = None
    weights: WeightsOption = Weights.raw
    seed: Annotated[int, typer.Option(min=0, help="Of what is set aside.")] = 0
    overwrite: OverwriteOption = False
    processes: ProcessesOption = None

    def chosen(self, reporter: Reporter) -> dict[str, Any]:
        """Return them as `open_subject` takes them."""
        return {"weights": self.weights.value, "seed": self.seed, "reporter": reporter}


@dataclass(frozen=True)
class FeatureOptions(SubjectOptions):
    """How features are made."""

    bf16: Annotated[bool, typer.Option("--bf16", help="Compute features in bfloat16.")] = False
    refresh: Annotated[bool, typer.Option("--refresh", help="Extract features again.")] = False

    def refuse_for_folds(self, baselines: bool) -> None:
        """Raise for options that the probe over folds would not follow."""
        given = {"--weights": self.weights is not Weights.raw, "--bf16": self.bf16, "--seed": bool(self.seed)}
        given |= {"--refresh": self.refresh, "--no-baselines": not baselines}
        given |= {"--processes": self.processes not in (None, 1)}
        asked = [name for name, is_given in given.items() if is_given]
        if asked:
            rule = "the probe over folds of a run's own images takes no such option; name images with --data to use it"
            raise MageKitError(f"{', '.join(asked)}: {rule}")

    def chosen(self, reporter: Reporter) -> dict[str, Any]:
        """Return them as `open_subject` takes them."""
        precision = "bfloat16" if self.bf16 else "float32"
        return {**super().chosen(reporter), "precision": precision, "refresh": self.refresh}
