"""What is to be measured, and the options that measures share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mage_kit.base.progress import Reporter
from mage_kit.evaluation.kinds import Precision
from mage_kit.evaluation.subject import Subject, open_subject
from mage_kit.models.decoding import DecodingChanges

SHARED = frozenset(
    {"data", "weights", "seed", "precision", "refresh", "resume", "decoding", "processes", "file"}
)  # what `Measure.takes` may name


@dataclass(frozen=True)
class Request:
    """A run to be measured; a measure follows those of these options that it takes.

    Args:
        run: Run, model or tokenizer folder; a checkpoint file where the measure takes one.
        data: Folder of images; None for what the measure takes without.
        weights: Raw, or the running mean.
        seed: Of what is set aside or drawn.
        precision: What features are computed in.
        refresh: Extract features again that do not fit.
        resume: Go on with a measurement that was interrupted.
        overwrite: Replace an earlier result.
        decoding: Changes of the model's decoding.
        processes: How many were asked for; None for as many as there are GPUs.
        reporter: Where progress goes.
    """

    run: Path
    data: Path | None = None
    weights: Literal["raw", "ema"] = "raw"
    seed: int = 0
    precision: Precision = "float32"
    refresh: bool = False
    resume: bool = False
    overwrite: bool = False
    decoding: DecodingChanges = field(default_factory=lambda: DecodingChanges())
    processes: int | None = None
    reporter: Reporter = field(default_factory=Reporter)

    def subject(self, data: Path | None = None, like: Subject | None = None) -> Subject:
        """Open the run's model and labelled images in two parts.

        Args:
            data: Other images than the request's.
            like: A subject of the same run, whose model is taken.

        Raises:
            MageKitError: If there is no such run, or its images have no labels.
        """
        return open_subject(
            self.run, data or self.data, weights=self.weights, precision=self.precision, seed=self.seed,
            refresh=self.refresh, model=None if like is None else like.model, reporter=self.reporter,
        )  # fmt: skip

    def options(self) -> dict[str, object]:
        """Return the options that differ from their defaults, by name."""
        plain = Request(self.run, reporter=self.reporter)
        names = ("data", "weights", "seed", "precision", "refresh", "resume", "decoding", "processes")
        return {name: value for name in names if (value := getattr(self, name)) != getattr(plain, name)}
