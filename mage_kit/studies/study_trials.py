"""The trainings of a study: each row's recipe at a scale, what it starts from, and what it is measured by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import has_place
from mage_kit.recipes.overrides import check_overrides
from mage_kit.recipes.starting_points import tokenizer_recipe, trains_same_tokenizer, trains_tokenizer
from mage_kit.studies.study import Study
from mage_kit.studies.trials import Trial


def recipe_of(study: Study, row: str, scale: str, overrides: Sequence[str] = ()) -> Callable[[int], Recipe]:
    """Return what makes a row's recipe of a seed.

    Args:
        study: The study.
        row: Its name.
        scale: One of the study's.
        overrides: Changes of every row that has such a place.
    """
    return _builder(*study.changes(study.row(row), scale), overrides)


def trial_of(
    study: Study,
    row: str,
    scale: str,
    overrides: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    skip: Collection[str] = (),
) -> Callable[[int], Trial]:
    """Return what makes a row's trial of a seed.

    Rows that train a tokenizer of one form share one of the scale's own views, as the paper's share one VQGAN: else a
    study of crops would vary tokenizers too.

    Args:
        study: The study.
        row: Its name.
        scale: One of the study's.
        overrides: Changes of every row that has such a place.
        options: See `Study.measurements`.
        skip: The same.
    """
    setting = study.row(row)
    build, place = recipe_of(study, row, scale, overrides), study.scales[scale]
    base = _builder(place.recipe, place.set, overrides)
    columns = study.measurements(scale, options, skip, setting)

    def make(seed: int) -> Trial:
        recipe = build(seed)
        if setting.starts_from:
            return Trial(recipe, columns, trial_of(study, setting.starts_from, scale, overrides, options, skip)(seed))
        alone = tokenizer_recipe(whole := base(seed))
        if alone is None or not trains_same_tokenizer(recipe, whole):
            return Trial(recipe, columns)
        return Trial(recipe, columns, Trial(alone))

    return make


def check_rows(study: Study, scale: str, overrides: Sequence[str] = ()) -> None:
    """Raise MageKitError for overrides that change no row, that take the seed, or that make two rows the same."""
    check_overrides(overrides)
    rows = study.able_rows(scale)
    recipes = [Recipe.load(*study.changes(row, scale)) for row in rows] if overrides else []
    for override in overrides:
        if override.partition("=")[0].removeprefix("$.") == "seed":
            raise MageKitError(f"--set {override}: rows are averaged over seeds; give --seeds")
        if not any(_takes(recipe, override) for recipe in recipes):
            raise MageKitError(f"--set {override}: no row of '{study.name}' has such a place")
    names: dict[tuple[str, str], str] = {}
    for row in rows if overrides else ():
        mark = recipe_of(study, row.name, scale, overrides)(0).fingerprint(), row.starts_from
        if mark in names:
            raise MageKitError(f"--set: '{names[mark]}' and '{row.name}' of '{study.name}' become one setting")
        names[mark] = row.name


def _takes(recipe: Recipe, override: str) -> bool:
    """Whether a change is meant for a row: it has the place; a tokenizer's weights are for those that train one."""
    is_weights = override.partition("=")[0].removeprefix("$.") == "tokenizer.weights"
    return has_place(recipe, override) and (trains_tokenizer(recipe) or not is_weights)


def _builder(recipe: str, changes: Sequence[str], overrides: Sequence[str]) -> Callable[[int], Recipe]:
    def build(seed: int) -> Recipe:
        plain = Recipe.load(recipe, changes) if overrides else None
        mine = [override for override in overrides if plain is not None and _takes(plain, override)]
        return Recipe.load(recipe, [*changes, *mine, f"seed={seed}"])

    return build
