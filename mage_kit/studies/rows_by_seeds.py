"""Every row of a comparison, once a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mage_kit.base.progress import Reporter
from mage_kit.recipes import Recipe
from mage_kit.studies.comparison import Comparison, ComparisonRow, FigureName
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import Measurement
from mage_kit.studies.trials import FAILURES, Trial, TrialResult, run_trial

Rows = Mapping[str, tuple[Mapping[str, str], Callable[[int], Recipe]]]
"""By name what a row changes, for people, and its recipe for a seed, which may fail."""


def compare_trials(
    title: str,
    rows: Rows,
    measurements: Sequence[Measurement],
    seeds: Sequence[int],
    runs: Path,
    reporter: Reporter,
    on_row: Callable[[Comparison], None] | None = None,
    store: FigureStore | None = None,
    starts: Mapping[str, str] | None = None,
) -> Comparison:
    """Run every row once a seed and compare; seed by seed, so that an unfinished comparison has all rows.

    Args:
        title: Of the comparison.
        rows: By name what a row changes, for people, and its recipe for a seed, which may fail.
        measurements: Columns.
        seeds: One training of each row for each.
        runs: Folder of all runs.
        reporter: Where progress goes.
        on_row: Told of the comparison so far after each training.
        store: See `run_trial`.
        starts: By name of a row the row from whose run of the same seed it starts.
    """

    def trial(name: str, seed: int) -> Trial:
        start = (starts or {}).get(name)
        return Trial(rows[name][1](seed), measurements, trial(start, seed) if start else None)

    results: dict[str, dict[int, TrialResult]] = {name: {} for name in rows}
    comparison = _gathered(title, rows, results, measurements, seeds)
    for number, (seed, name) in enumerate(((seed, name) for seed in seeds for name in rows), start=1):
        reporter.say(f"training {number} of {len(seeds) * len(rows)}: {name}, seed {seed}")
        try:
            each = trial(name, seed)
        except FAILURES as error:
            results[name][seed] = TrialResult({}, {}, str(error))
        else:
            results[name][seed] = run_trial(each, runs, reporter, store)
        if problem := results[name][seed].problem:
            reporter.say(f"{name}, seed {seed}: {problem}")
        comparison = _gathered(title, rows, results, measurements, seeds)
        if on_row is not None:
            on_row(comparison)
    return comparison


def _gathered(
    title: str,
    rows: Rows,
    results: Mapping[str, Mapping[int, TrialResult]],
    measurements: Sequence[Measurement],
    seeds: Sequence[int],
) -> Comparison:
    every = [result for by_seed in results.values() for result in by_seed.values()]
    protocols = {name: words for result in reversed(every) for name, words in result.protocols.items()}
    figures = tuple(FigureName(each.name, each.better, protocols.get(each.name, "")) for each in measurements)
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
