"""The results of runs in one table; the paper's figure beside one of ours only where data and protocol are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.evaluation.measures import Figure, Measure
from mage_kit.evaluation.measures.base import number_text
from mage_kit.evaluation.stored_results import ask, figures_of, read_result, result_files
from mage_kit.recipes import Recipe
from mage_kit.store.folders import RECIPE_FILE, require_folder


@dataclass(frozen=True)
class Line:
    """A figure.

    Args:
        run: Its folder.
        measure: What was measured, as "knn".
        row: Of what, as "mean".
        name: Of the figure, as "top1" or "frechet".
        value: The figure.
        std: Its deviation, where it is a mean.
        protocol: How it was measured, or what speaks against comparing it.
        data: On which images.
        images: How many it was measured on; None where the result does not say.
        weights: "raw" or "ema"; "" where there is no choice.
        weights_sha256: Of the weights.
        paper: The paper's figure, where data and protocol are the same; None elsewhere.
        comparable: Why there is no such figure, or that it is one.
    """

    run: str
    measure: str
    row: str
    name: str
    value: float
    std: float | None
    protocol: str
    data: str
    images: int | None
    weights: str
    weights_sha256: str
    paper: float | None
    comparable: str

    @property
    def shown(self) -> str:
        """The value and its deviation, small ones with the digits that they have."""
        return number_text(self.value, self.std)

    @property
    def about(self) -> str:
        """What it was measured by and on, in one line."""
        count = "" if self.images is None else f"; {self.images:,} images"
        return f"{self.protocol}; {self.data}{count}" + (f"; {self.weights} weights" if self.weights else "")


def gather(runs: Sequence[Path]) -> list[Line]:
    """Return the results of runs, RUN/eval/*.json of each; what the numbers are, each result's measure says.

    Raises:
        MageKitError: If a run has none, or a file is damaged.
    """
    lines: list[Line] = []
    for run in runs:
        require_folder(run)
        recipe = Recipe.load(run / RECIPE_FILE) if (run / RECIPE_FILE).is_file() else None
        mine = [line for file in result_files(run) for line in _lines(run, file, recipe)]
        if not mine:
            raise MageKitError(f"'{run}': has no results; mage-kit eval makes some")
        lines += mine
    return lines


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Return them ready for JSON."""
    return {"results": [asdict(line) for line in lines]}


def _lines(run: Path, file: Path, recipe: Recipe | None) -> list[Line]:
    measure, result = read_result(file)
    return [_line(run, measure, result, figure, recipe) for figure in figures_of(measure, result, str(file))]


def _line(run: Path, measure: type[Measure], result: Mapping[str, Any], figure: Figure, recipe: Recipe | None) -> Line:
    images, reference = (figure.about, result), result.get("reference") or {}
    data = figure.about.get("data") or result.get("data") or f"against {reference.get('name', 'data not told')}"
    count = next((each[name] for each in images for name in ("test_images", "images") if name in each), None)
    paper, comparable = ask(measure, "paper", figure, result, recipe)
    return Line(
        run=str(run),
        measure=str(result.get("kind", result["measure"])),
        row=figure.of,
        name=figure.name,
        value=figure.value,
        std=figure.std,
        protocol="; ".join(str(result[name]) for name in ("name", "protocol") if result.get(name)),
        data=str(data),
        images=count,
        weights=figure.of if figure.of in ("raw", "ema") else str(result.get("weights", "")),
        weights_sha256=str(result.get("weights_sha256") or result.get("tokenizer_sha256") or ""),
        paper=paper,
        comparable=comparable,
    )
