"""JSON from strangers: too large, too deep, keys twice, no numbers; recipes and --set say so in one sentence."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

import mage_kit as mk
from mage_kit.base.json_text import DEEPEST, LARGEST, parse_json
from tests.recipes.test_recipe import RECIPES

DIGITS = json.loads((RECIPES / "digits.json").read_text())


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


TEXTS = {
    "deep": ("[" * 100_000 + "]" * 100_000, "more than 100 brackets within brackets"),
    "deep, in keys": (json.dumps(nested(DEEPEST)), "more than 100 brackets within brackets"),
    "large": (json.dumps({"name": "a" * LARGEST}), r"1,048,58\d characters, must be at most 1,048,576"),
    "huge": (json.dumps({"name": "a" * 5 * LARGEST}), r"over [\d,]+ bytes, must be a recipe"),
    "key twice": ('{"name": "a", "data": {"kind": "digits", "kind": "tar_shards"}}', "the key 'kind' stands twice"),
    "not a number": ('{"name": "a", "seed": NaN}', "NaN, must be a finite number"),
    "infinite": ('{"name": "a", "seed": -Infinity}', "-Infinity, must be a finite number"),
    "cut": ('{"name": "a"', "line 1, column 13: not JSON"),
    "brackets in words": (json.dumps({"name": "[" * 500}), r"\$\.name: "),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_recipe_that_is_none_is_refused_at_once(name: str, tmp_path: Path) -> None:
    text, words = TEXTS[name]
    file = tmp_path / "recipe.json"
    file.write_text(text)
    start = time.monotonic()
    with pytest.raises(mk.RecipeError, match=words):
        mk.Recipe.load(file)
    assert time.monotonic() - start < 2


def test_many_problems_are_counted_not_listed(tmp_path: Path) -> None:
    with pytest.raises(mk.RecipeError) as caught:
        mk.Recipe.parse({**DIGITS, **{f"key{number}": 1 for number in range(1000)}})
    assert len(caught.value.problems) == 51 and caught.value.problems[-1] == "and 950 more"


@pytest.mark.parametrize("data", [nested(3000), {"name": object()}, {"name": float("nan")}, {"name": {1, 2}}])
def test_data_in_python_that_is_no_json(data: dict[str, Any]) -> None:
    with pytest.raises(mk.RecipeError, match=r"\$: must be JSON"):
        mk.Recipe.parse(data)


def test_what_begins_as_json_after_set_must_be_json() -> None:
    for text in ('{"kind": "masked"', "[0.1, 0.2", '"digits'):
        with pytest.raises(mk.MageKitError, match=r"--set training=.*not JSON"):
            mk.Recipe.load(RECIPES / "digits.json", [f"training={text}"])
    assert mk.Recipe.load(RECIPES / "digits.json", ["name=plain words"]).name == "plain words"


def test_what_is_json_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, null, true, "x\\"[{"]}') == {"a": [1, 2.5, None, True, 'x"[{']}
    assert parse_json(json.dumps(nested(DEEPEST - 1))) == nested(DEEPEST - 1)
