"""The rows of a sweep: every combination of what varies, by a name of its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.recipes import Recipe
from mage_kit.recipes.overrides import check_overrides
from mage_kit.studies.vary import value_text
from mage_kit.training.check import check

_MOST = 10_000  # rows

Vary = Mapping[str, Sequence[Any]]
Builders = dict[str, tuple[dict[str, str], Callable[[int], Recipe]]]


def build_rows(base: Recipe, vary: Vary) -> tuple[Builders, Recipe]:
    """Return every combination by name, what it changes and its recipe of a seed, and the first that can be built.

    Args:
        base: What all have in common.
        vary: Values by place in the recipe.

    Raises:
        MageKitError: If nothing varies, the seed does, two rows are the same, or none can be built.
    """
    axes = {path.removeprefix("$."): values for path, values in vary.items()}
    if not axes or any(isinstance(values, str) or len(values) < 1 for values in axes.values()):
        raise MageKitError("vary: must name at least one place with its values, as {'model.drop': [0.25, 0.5]}")
    if "seed" in axes:
        raise MageKitError("vary: 'seed', is what rows are averaged over; give `seeds`")
    check_overrides([f"{path}=" for path in vary])
    combinations = list(itertools.product(*axes.values()))
    if len(combinations) > _MOST:
        raise MageKitError(f"vary: {len(combinations):,} combinations, must be at most {_MOST:,}")
    texts = [tuple(json.dumps(value, sort_keys=True) for value in values) for values in combinations]
    if twice := next((text for number, text in enumerate(texts) if text in texts[:number]), None):
        raise MageKitError(f"vary: {', '.join(twice)}, stands twice")
    rows: Builders = {}
    for values in combinations:
        settings = {path: value_text(value) for path, value in zip(axes, values, strict=True)}
        changes = [f"{path}={json.dumps(value)}" for path, value in zip(axes, values, strict=True)]
        name = ", ".join(f"{label} {text}" for label, text in zip(_labels(axes), settings.values(), strict=True))
        rows[name] = (settings, _builder(base, changes))
    return rows, _first_sound(rows, base.seed)


def _labels(axes: Mapping[str, Any]) -> list[str]:
    """Last words of the places, "drop" of model.drop; the whole place where two end alike."""
    ends = [path.rpartition(".")[2] for path in axes]
    return [path if ends.count(end) > 1 else end for path, end in zip(axes, ends, strict=True)]


def _builder(base: Recipe, changes: Sequence[str]) -> Callable[[int], Recipe]:
    return lambda seed: base.overridden([*changes, f"seed={seed}"])


def _first_sound(rows: Builders, seed: int) -> Recipe:
    first: MageKitError | None = None
    for _, build in rows.values():
        try:
            recipe = build(seed)
            check(recipe)
        except MageKitError as error:
            first = first or error
        else:
            return recipe
    assert first is not None
    raise first
