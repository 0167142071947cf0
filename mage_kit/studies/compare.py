"""Sweeps: a recipe with some places varied, every combination a row, over seeds, in one table."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.models import Mage
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import evaluation_of, has_labels
from mage_kit.recipes.overrides import check_overrides
from mage_kit.studies.comparison import Comparison
from mage_kit.studies.comparison_plot import plot_comparison
from mage_kit.studies.measurement import Measurement
from mage_kit.studies.rows_by_seeds import Rows, compare_trials
from mage_kit.studies.vary import value_text
from mage_kit.training.check import check

PROBE = Measurement("linear probe", "probe-fast", "mean", "top1", {}, "higher", seeded=False)
LOSSES = tuple(
    Measurement(f"loss, {share} hidden", "tokens", f"{share} hidden", "loss", {}, "lower") for share in ("0.5", "0.9")
)
_MOST = 10_000  # rows

Vary = Mapping[str, Sequence[Any]]


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
        MageKitError: If nothing varies, no row can be built, or `out` holds another comparison.
    """
    place, reporter = Path(out), reporter or Reporter()
    rows, whole = _rows(recipe, vary, overrides)
    first = int(whole.seed)
    numbers = tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))
    if not numbers:
        raise MageKitError(f"seeds: {seeds}, must be at least 1")
    title = f"{whole.name}: {', '.join(vary)}"
    _check_place(place, title)
    columns = measurements if measurements is not None else default_measurements(whole)
    place.mkdir(parents=True, exist_ok=True)
    comparison = compare_trials(
        title, rows, columns, numbers, Path(runs) if runs is not None else place / "runs", reporter,
        on_row=lambda so_far: so_far.write(place / "compare.json"),
    )  # fmt: skip
    write_tables(comparison, place, "compare")
    return comparison


def default_measurements(recipe: Recipe) -> list[Measurement]:
    """Return what a recipe's runs can be measured by without files of the user's."""
    labelled = has_labels(recipe)
    model = check(recipe).model
    if not isinstance(model, Mage):
        raise MageKitError(f"recipe: '{recipe.name}', makes no masked model; measurements must be named")
    colour = model.tokenizer.channels == 3
    distance = [frechet(evaluation_of(recipe).samples)] if labelled or colour else []
    return [*([PROBE] if labelled else []), *distance, *LOSSES]


def frechet(samples: int) -> Measurement:
    """Return the Fréchet distance of so many samples, by a network at hand."""
    return Measurement("Fréchet distance", "frechet", "samples", "frechet", {"n": samples}, "lower")


def write_tables(comparison: Comparison, folder: Path, name: str) -> None:
    """Write a comparison as NAME.json, .md, .csv, .tex and .png."""
    from mage_kit.base.files import write_text

    comparison.write(folder / f"{name}.json")
    write_text(folder / f"{name}.md", comparison.to_markdown())
    write_text(folder / f"{name}.csv", comparison.to_csv())
    write_text(folder / f"{name}.tex", comparison.to_latex())
    plot_comparison(comparison, folder / f"{name}.png")


def _check_place(folder: Path, title: str) -> None:
    file = folder / "compare.json"
    if file.is_file() and (other := Comparison.read(file).title) != title:
        raise MageKitError(f"out: '{folder}', holds another comparison ({other}); choose another folder")


def _rows(recipe: Recipe | str | os.PathLike[str], vary: Vary, overrides: Sequence[str]) -> tuple[Rows, Recipe]:
    """Every combination by name, and the first recipe that can be built."""
    if not vary or any(isinstance(values, str) or len(values) < 1 for values in vary.values()):
        raise MageKitError("vary: must name at least one place with its values, as {'model.drop': [0.25, 0.5]}")
    if "seed" in vary:
        raise MageKitError("vary: 'seed', is what rows are averaged over; give `seeds`")
    check_overrides([*overrides, *(f"{path}=" for path in vary)])
    combinations = list(itertools.product(*vary.values()))
    if len(combinations) > _MOST:
        raise MageKitError(f"vary: {len(combinations):,} combinations, must be at most {_MOST:,}")
    texts = [tuple(json.dumps(value, sort_keys=True) for value in values) for values in combinations]
    if twice := next((text for number, text in enumerate(texts) if text in texts[:number]), None):
        raise MageKitError(f"vary: {', '.join(twice)}, stands twice")
    rows: dict[str, tuple[dict[str, str], Callable[[int], Recipe]]] = {}
    sound: Recipe | None = None
    problems: list[MageKitError] = []
    for values in combinations:
        settings = {path: value_text(value) for path, value in zip(vary, values, strict=True)}
        changes = [f"{path}={json.dumps(value)}" for path, value in zip(vary, values, strict=True)]

        def build(seed: int | None, changes: list[str] = changes) -> Recipe:
            return _load(recipe, [*overrides, *changes, *([] if seed is None else [f"seed={seed}"])])

        name = ", ".join(f"{path.rpartition('.')[2]} {text}" for path, text in settings.items())
        if name in rows:
            name = ", ".join(f"{path} {text}" for path, text in settings.items())
        rows[name] = (settings, build)
        if sound is None:
            try:
                sound = build(None)
                check(sound)
            except MageKitError as error:
                sound = None
                problems.append(error)
    if sound is None:
        raise problems[0]
    return rows, sound


def _load(recipe: Recipe | str | os.PathLike[str], changes: Sequence[str]) -> Recipe:
    return recipe.overridden(changes) if isinstance(recipe, Recipe) else Recipe.load(recipe, changes)
