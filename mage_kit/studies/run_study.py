"""Runs a study: every row over seeds, its table beside the paper's numbers, a verdict on each contrast."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.studies.compare import write_tables
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import Measurement, check_measurement
from mage_kit.studies.rows_by_seeds import Rows, compare_trials
from mage_kit.studies.study import Study
from mage_kit.studies.study_results import StudyResult, result_file
from mage_kit.studies.study_trials import check_rows, trial_of

RUNS = "runs"  # folder of the trainings, which studies share


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
        MageKitError: If the study has no such scale, no row that can run at it, none with an override's place, or a
            column cannot be measured.
        TrainingStopped: If it was told to stop.
    """
    place, reporter = Path(out), reporter or Reporter()
    check_scale(study, scale)
    able = study.able_rows(scale)
    if not able:
        raise MageKitError(f"study: '{study.name}', {study.rows[0].reason(scale)}")
    check_rows(study, scale, overrides)
    measurements = check_columns(study, scale, options, skip)
    rows: Rows = {row.name: ({}, trial_of(study, row.name, scale, overrides, options, skip)) for row in able}
    place.mkdir(parents=True, exist_ok=True)
    title = f"{study.table}: {study.title} ({scale})"
    comparison = compare_trials(
        title, rows, measurements, seeds or study.seeds, place / RUNS, reporter, store=store
    )  # fmt: skip
    result = StudyResult(study, scale, comparison, tuple(overrides))
    file = result_file(study, scale, place)
    if result.write(file):
        write_tables(comparison, place, f"{study.name}-{scale}-table")
    else:
        reporter.say(f"{file}: has more seeds of the same settings, and stays as it is")
    return result


def check_scale(study: Study, scale: str) -> None:
    """Raise MageKitError if a study has no such scale."""
    if scale not in study.scales:
        raise MageKitError(f"scale: '{scale}', must be one of {', '.join(study.scales)} for '{study.name}'")


def check_columns(
    study: Study, scale: str, options: Mapping[str, Mapping[str, Any]] | None, skip: Sequence[str]
) -> list[Measurement]:
    """Return a study's columns; raise MageKitError for one that could not be measured, before anything is trained."""
    measurements = study.measurements(scale, options, skip)
    for each in measurements:
        more = f"--option {each.measure}.NAME=VALUE gives it more; --skip '{each.name}' does without"
        check_measurement(each, f" ({more})")
    return measurements
