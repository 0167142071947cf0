"""Every row of a comparison, once a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mage_kit.base.progress import Reporter
from mage_kit.studies.comparison import Comparison, ComparisonRow, FigureName
from mage_kit.studies.failures import attempt
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import Measurement
from mage_kit.studies.trials import Trial, TrialResult, run_trial

Rows = Mapping[str, tuple[Mapping[str, str], Callable[[int], Trial]]]
"""By name what a row changes, for people, and its trial of a seed, which may fail."""


def compare_trials(
    title: str,
    rows: Rows,
    measurements: Sequence[Measurement],
    seeds: Sequence[int],
    runs: Path,
    reporter: Reporter,
    on_row: Callable[[Comparison], None] | None = None,
    store: FigureStore | None = None,
) -> Comparison:
    """Run every row once a seed and compare; seed by seed, so that an unfinished comparison has all rows.

    Args:
        title: Of the comparison.
        rows: By name what a row changes, for people, and its trial of a seed, which may fail.
        measurements: Columns.
        seeds: One training of each row for each.
        runs: Folder of all runs.
        reporter: Where progress goes.
        on_row: Told of the comparison so far after each training.
        store: See `run_trial`.

    Raises:
        TrainingStopped: If it was told to stop.
    """
    results: dict[str, dict[int, TrialResult]] = {name: {} for name in rows}
    comparison = _gather(title, rows, results, measurements, seeds)
    for number, (seed, name) in enumerate(((seed, name) for seed in seeds for name in rows), start=1):
        reporter.say(f"training {number} of {len(seeds) * len(rows)}: {name}, seed {seed}")
        trial, problem = attempt(partial(rows[name][1], seed))
        no_trial = TrialResult({}, {}, problem)
        results[name][seed] = no_trial if trial is None else run_trial(trial, runs, reporter, store)
        if problem := results[name][seed].problem:
            reporter.say(f"{name}, seed {seed}: {problem}")
        comparison = _gather(title, rows, results, measurements, seeds)
        if on_row is not None:
            on_row(comparison)
    return comparison


def _gather(
    title: str,
    rows: Rows,
    results: Mapping[str, Mapping[int, TrialResult]],
    measurements: Sequence[Measurement],
    seeds: Sequence[int],
) -> Comparison:
    every = [result for by_seed in results.values() for result in by_seed.values()]
    figures = tuple(FigureName(each.name, each.better, _protocol(each.name, every)) for each in measurements)
    built = []
    for name, (settings, _) in rows.items():
        values = {
            figure.name: {seed: result.values[figure.name] for seed, result in results[name].items()
                          if figure.name in result.values}
            for figure in figures
        }  # fmt: skip
        problems = {seed: result.problem for seed, result in results[name].items() if result.problem}
        built.append(ComparisonRow(name, settings, {key: by for key, by in values.items() if by}, problems))
    return Comparison(title, figures, tuple(built), tuple(seeds))


def _protocol(figure: str, results: Sequence[TrialResult]) -> str:
    """How a column was measured; where its figures were measured in several ways, that they cannot be compared."""
    ways = list(dict.fromkeys(result.protocols[figure] for result in results if figure in result.protocols))
    if len(ways) < 2:
        return "".join(ways)
    return f"MEASURED IN {len(ways)} WAYS, so that rows cannot be compared: {'; or: '.join(ways)}"
