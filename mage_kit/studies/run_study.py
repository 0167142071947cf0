"""Runs a study: every row over seeds, its table beside the paper's numbers, a verdict on each contrast."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json, write_json
from mage_kit.base.progress import Reporter
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import has_place
from mage_kit.recipes.overrides import check_overrides
from mage_kit.studies.compare import write_tables
from mage_kit.studies.comparison import Comparison
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import check_measurement
from mage_kit.studies.rows_by_seeds import Rows, compare_trials
from mage_kit.studies.study import Study
from mage_kit.studies.study_verdicts import Verdict, verdicts


@dataclass(frozen=True)
class StudyResult:
    """What a study gave.

    Args:
        study: The study.
        scale: Where it ran.
        comparison: Its figures.
        date: When the last of them came, YYYY-MM-DD; "" before it is written.
    """

    study: Study
    scale: str
    comparison: Comparison
    date: str = ""

    @property
    def verdicts(self) -> list[Verdict]:
        """One on each contrast."""
        return verdicts(self.study, self.comparison)

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "study": self.study.name,
            "scale": self.scale,
            "date": self.date or time.strftime("%Y-%m-%d"),
            "comparison": self.comparison.as_dict(),
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
        }

    def write(self, file: Path) -> None:
        """Write it as JSON, at once; figures that are there already keep their date."""
        file.parent.mkdir(parents=True, exist_ok=True)
        content = self.as_dict()
        before = read_json(file) if file.is_file() else {}
        if before.get("comparison") == json.loads(json.dumps(content["comparison"])):
            content["date"] = before["date"]
        write_json(file, content)


def run_study(
    study: Study,
    scale: str,
    out: str | os.PathLike[str] = "runs/studies",
    *,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Sequence[str] = (),
    store: FigureStore | None = None,
    reporter: Reporter | None = None,
) -> StudyResult:
    """Train and measure what is not there; a call that was interrupted goes on.

    Args:
        study: The study.
        scale: One of its scales.
        out: Folder of results, NAME-SCALE.json and its tables, and of the trainings, `runs/`, which studies share.
        seeds: One training of each row for each; None for the study's own.
        overrides: Changes of every row that has such a place, as where the data lie.
        options: More options, by measure or by column.
        skip: Columns to leave out.
        store: Figures of runs that need not be there any more.
        reporter: Where progress goes.

    Raises:
        MageKitError: If the study has no such scale, no row that can run at it, or none with an override's place.
    """
    place, reporter = Path(out), reporter or Reporter()
    check_scale(study, scale)
    rows: Rows = {row.name: ({}, recipe_of(study, row.name, scale, overrides)) for row in study.rows if not row.needs}
    if not rows:
        raise MageKitError(f"study: '{study.name}', {study.rows[0].needs}")
    _check_places(study, scale, overrides)
    measurements = study.measurements(scale, options, skip)
    for each in measurements:
        check_measurement(
            each, f" (--option {each.measure}.NAME=VALUE gives it more; --skip '{each.name}' does without)"
        )
    place.mkdir(parents=True, exist_ok=True)
    file = result_file(study, scale, place)

    def write(so_far: Comparison) -> None:
        StudyResult(study, scale, so_far).write(file)

    title = f"{study.table}: {study.title} ({scale})"
    comparison = compare_trials(
        title, rows, measurements, seeds or study.seeds, place / "runs", reporter, write, store,
        starts={row.name: row.starts_from for row in study.rows if row.starts_from},
    )  # fmt: skip
    write_tables(comparison, place, f"{study.name}-{scale}-table")
    return StudyResult(study, scale, comparison)


def check_scale(study: Study, scale: str) -> None:
    """Raise MageKitError if a study has no such scale."""
    if scale not in study.scales:
        raise MageKitError(f"scale: '{scale}', must be one of {', '.join(study.scales)} for '{study.name}'")


def recipe_of(study: Study, row: str, scale: str, overrides: Sequence[str] = ()) -> Callable[[int], Recipe]:
    """Return what makes a row's recipe of a seed.

    Args:
        study: The study.
        row: Its name.
        scale: One of the study's.
        overrides: Changes of every row that has such a place.
    """
    recipe, changes = study.changes(study.row(row), scale)

    def build(seed: int) -> Recipe:
        mine = [override for override in overrides if has_place(Recipe.load(recipe, changes), override)]
        return Recipe.load(recipe, [*changes, *mine, f"seed={seed}"])

    return build


def _check_places(study: Study, scale: str, overrides: Sequence[str]) -> None:
    """Each override must change something."""
    check_overrides(overrides)
    recipes = [Recipe.load(*study.changes(row, scale)) for row in study.rows if not row.needs] if overrides else []
    for override in overrides:
        if not any(has_place(recipe, override) for recipe in recipes):
            raise MageKitError(f"--set {override}: no row of '{study.name}' has such a place")


def result_file(study: Study, scale: str, out: Path) -> Path:
    """Return where a study's result lies."""
    return out / f"{study.name}-{scale}.json"


def read_result(study: Study, scale: str, out: Path) -> StudyResult | None:
    """Return what a study gave before; None where it was not run.

    Raises:
        MageKitError: If the file is something else.
    """
    file = result_file(study, scale, out)
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or content.get("study") != study.name:
        raise MageKitError(f"{file}: holds no result of the study '{study.name}'")
    return StudyResult(study, scale, Comparison.from_dict(content["comparison"]), str(content.get("date", "")))
