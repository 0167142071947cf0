"""Sweeps: a recipe with some places varied, every combination a row, over seeds, in one table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import write_text
from mage_kit.base.progress import Reporter
from mage_kit.recipes import Recipe
from mage_kit.studies.comparison import Comparison
from mage_kit.studies.comparison_plot import plot_comparison
from mage_kit.studies.default_measurements import default_measurements
from mage_kit.studies.measurement import Measurement, check_measurement
from mage_kit.studies.product import Vary, build_rows
from mage_kit.studies.rows_by_seeds import compare_trials
from mage_kit.studies.trials import Trial

BASE_FILE = "recipe.json"


def compare(
    recipe: Recipe | str | os.PathLike[str],
    vary: Vary,
    *,
    seeds: int | Sequence[int] = 1,
    out: str | os.PathLike[str] = "runs/compare",
    overrides: Sequence[str] = (),
    runs: str | os.PathLike[str] | None = None,
    measurements: Sequence[Measurement] | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Train and measure every combination of what varies, once a seed; a call that was interrupted goes on.

    Args:
        recipe: With data and training; a file, or the name of one that ships.
        vary: Values by place in the recipe, as {"model.mask_ratio": ["uniform", "truncated_normal"], "model.drop":
            [0.25, 0.5]}: these are four rows. The first is the one that others are compared with.
        seeds: How many, from the recipe's own on; or which.
        out: Folder of the table (compare.json, .md, .csv, .tex, .png) and of the trainings.
        overrides: Changes common to all, as of `Recipe.load`.
        runs: Folder of the trainings, which comparisons may share; None for OUT/runs.
        measurements: Columns; None for a linear probe (with labels), a Fréchet distance and losses of hidden tokens.
        reporter: Where progress goes.

    Returns:
        The comparison. A row that cannot be built or trained is in it with its problem; the others are whole.

    Raises:
        MageKitError: If nothing varies, no row can be built, or `out` holds another comparison, or rows that are not
            asked for.
        TrainingStopped: If it was told to stop.
    """
    place, reporter = Path(out), reporter or Reporter()
    base = recipe.overridden(overrides) if isinstance(recipe, Recipe) else Recipe.load(recipe, overrides)
    builders, sound = build_rows(base, vary)
    first = int(base.seed)
    numbers = tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))
    if not numbers:
        raise MageKitError(f"seeds: {seeds}, must be at least 1")
    columns = measurements if measurements is not None else default_measurements(sound)
    for each in columns:
        check_measurement(each)
    title = f"{base.name}: {', '.join(vary)}"
    _check_place(place, title, base, {name: settings for name, (settings, _) in builders.items()})
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / BASE_FILE, base.to_json())
    rows = {name: (settings, _trial_of(build, columns)) for name, (settings, build) in builders.items()}
    comparison = compare_trials(
        title, rows, columns, numbers, Path(runs) if runs is not None else place / "runs", reporter,
        on_row=lambda so_far: so_far.write(place / "compare.json"),
    )  # fmt: skip
    write_tables(comparison, place, "compare")
    return comparison


def _trial_of(build: Callable[[int], Recipe], columns: Sequence[Measurement]) -> Callable[[int], Trial]:
    return lambda seed: Trial(build(seed), columns)


def write_tables(comparison: Comparison, folder: Path, name: str) -> None:
    """Write a comparison as NAME.json, .md, .csv, .tex and .png."""
    comparison.write(folder / f"{name}.json")
    write_text(folder / f"{name}.md", comparison.to_markdown())
    write_text(folder / f"{name}.csv", comparison.to_csv())
    write_text(folder / f"{name}.tex", comparison.to_latex())
    plot_comparison(comparison, folder / f"{name}.png")


def _check_place(folder: Path, title: str, base: Recipe, rows: Mapping[str, Mapping[str, str]]) -> None:
    """A folder holds one comparison; rows and seeds may be added to it."""
    file, recipe = folder / "compare.json", folder / BASE_FILE
    if not file.is_file():
        return
    other = Comparison.read(file)
    if other.title != title:
        raise MageKitError(f"out: '{folder}', holds another comparison ({other.title}); choose another folder")
    if not recipe.is_file() or Recipe.load(recipe).fingerprint() != base.fingerprint():
        raise MageKitError(f"out: '{folder}', holds the comparison of another recipe; choose another folder")
    if lost := next((row.name for row in other.rows if rows.get(row.name) != row.settings), None):
        raise MageKitError(f"out: '{folder}', its table has a row '{lost}' that would be lost; choose another folder")
