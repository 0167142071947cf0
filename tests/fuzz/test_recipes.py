"""Recipes and overrides that nobody wrote on purpose: refused in words, or right."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import mage_kit as mk
from tests.fuzz.judge import outcome
from tests.fuzz.mutations import at, mutate_json, mutate_text, places

RECIPES = Path(__file__).parents[2] / "recipes"
BASES = (
    "digits",
    "simclr_digits",
    "class_conditional_digits",
    "finetune_digits",
    "scratch_digits",
    "mae_vitb",
    "mage_vitb_512",
    "vqgan_imagenet",
    "maskgit",
)
KINDS = tuple(sorted({entry.kind for family in mk.FAMILIES.values() for entry in family}))
TEXTS = (
    "",
    "1",
    "-1",
    "0",
    "null",
    "true",
    "x",
    "[",
    "{",
    "[1,2",
    "1e999",
    "NaN",
    '"',
    "{}",
    "[]",
    "[red]",
    "\x00",
    "9" * 5000,
    "[" * 300,
    "a.b",
    "=",
    "1=2",
)


def stated(name: str) -> dict[str, Any]:
    return json.loads(mk.Recipe.load(RECIPES / f"{name}.json").to_json())


def check(path: Path, overrides: list[str]) -> None:
    """As `mage-kit check` does, whose note on memory is a part of it."""
    from mage_kit.planning.room import memory_note

    recipe = mk.Recipe.load(path, overrides)
    memory_note(recipe, mk.check(recipe))
    assert mk.Recipe.parse(json.loads(recipe.to_json())).to_json() == recipe.to_json()


def try_case(number: int, folder: Path, bases: list[dict[str, Any]]) -> None:
    draw = random.Random(f"recipe-{number}")
    base, path, overrides = draw.choice(bases), folder / "recipe.json", list[str]()
    if number % 3 == 0:
        text = json.dumps(base)
        overrides = [_override(base, draw) for _ in range(draw.choice((1, 1, 2, 4)))]
    elif number % 10 == 1:
        text = mutate_text(json.dumps(base), draw)
    else:
        text = json.dumps(mutate_json(base, draw, KINDS))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    outcome((text, overrides), lambda: check(path, overrides))


def _override(base: dict[str, Any], draw: random.Random) -> str:
    place = draw.choice(places(base))
    name = ".".join(map(str, place))
    what = draw.randrange(6)
    if what == 0:
        name = mutate_text(name, draw)[:200]
    if what == 1:
        name += draw.choice((".x", ".kind", ".0", "[0]", "."))
    value = json.dumps(mutate_json({"x": at(base, place)}, draw, KINDS).get("x"))
    return f"{name}={draw.choice((value, value, draw.choice(TEXTS), draw.choice(KINDS)))}"


@pytest.fixture(scope="module")
def bases() -> list[dict[str, Any]]:
    return [stated(name) for name in BASES]


def test_some(tmp_path: Path, bases: list[dict[str, Any]]) -> None:
    for number in range(120):
        try_case(number, tmp_path, bases)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_five_thousand(part: int, tmp_path: Path, bases: list[dict[str, Any]]) -> None:
    for number in range(120 + part * 610, 120 + (part + 1) * 610):
        try_case(number, tmp_path, bases)


def test_the_judge_is_not_blind(tmp_path: Path) -> None:
    """A bug of the program, an error without words, an endless wait: each fails."""
    for broken in (KeyError("x"), ValueError(""), ValueError("Traceback (most recent call last)")):

        def work(error: Exception = broken) -> None:
            raise error

        with pytest.raises(AssertionError):
            outcome("case", work)
