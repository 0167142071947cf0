"""Recipes that ship, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from mage_kit.recipes.shipped_recipes import recipe_names, recipe_place, shipped


def test_a_name_is_the_recipe_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mk.Recipe.load("digits").to_json() == mk.Recipe.load(shipped("digits.json")).to_json()
    (tmp_path / "digits_demo").mkdir()  # a folder of the name, as of an earlier run, hides nothing
    assert mk.Recipe.load("digits_demo").name == "digits_demo"
    assert {"digits", "mage_c_vitl", "vqgan_photos"} <= set(recipe_names()) and "recipe" not in recipe_names()


def test_a_file_of_that_name_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text(mk.Recipe.load("digits").extended(name="mine").to_json())
    assert mk.Recipe.load("digits").name == "mine"
    assert recipe_place("./digits") == Path("digits") and recipe_place("digits.json") == Path("digits.json")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vqgan_photo", "no such file, and no recipe of that name ships; is 'vqgan_photos' meant"),
        (
            "qqq",
            "no such file, and no recipe of that name ships; those that ship: beit_vitb, class_cond",
        ),
        ("digits.jsn", "no such file"),
        ("recipes/digits", "no such file"),
        ("recipe.schema", "no such file"),
        ("", "cannot be read"),
        (".", "cannot be read"),
    ],
)
def test_no_such_name(name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mk.RecipeError, match=says):
        mk.Recipe.load(name)


def test_commands_take_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["check", "digits"])
    assert done.exit_code == 0 and "digits: holds" in done.output
