"""A run's `data.levels` at the doors that read image files for it: 12 bits in 16 are white everywhere."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.evaluation.image_quality import tokenizer_and_images
from mage_kit.evaluation.splits import folder_split
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import pixel_levels
from mage_kit.store.folders import RECIPE_FILE
from tests import build
from tests.evaluation.test_commands import call

WHITE = np.full((16, 16), 4095, dtype=np.uint16)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Class folders of white pictures."""
    for number in range(12):
        place = tmp_path / "deep" / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(WHITE).save(place / f"{number}.png")
    return tmp_path / "deep"


@pytest.fixture
def run(tmp_path: Path, deep: Path) -> Path:
    """A model folder whose recipe knows of its pictures' levels."""
    model = build.mage().eval()
    plain = Recipe.load(mk.save(model, tmp_path / "plain") / RECIPE_FILE)
    return mk.save(model, tmp_path / "run", plain.extended(data=section(deep)))


def section(path: Path) -> dict[str, Any]:
    return {"kind": "image_folder", "path": str(path), "levels": 4096}


def test_recipes_answer_for_their_images(run: Path, deep: Path) -> None:
    recipe = Recipe.load(run / RECIPE_FILE)
    assert pixel_levels(recipe) == 4096
    cached = recipe.extended(data={"kind": "token_cache", "path": "cache", "source": section(deep)})
    assert pixel_levels(cached) == 4096, "the images of a cache are its source's"
    assert pixel_levels(recipe.extended(data=None)) is None


def test_evaluations_read_as_the_run_did(run: Path, deep: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, images = tokenizer_and_images(run, deep)
        assert images.still(0).views[0].min() == 255
        split = folder_split(deep, (16, 16), 1, mk.Augment(), levels=4096)
        assert split.train.still(0).views[0].min() == 255 and split.train.levels == 4096
        own = Recipe.load(run / RECIPE_FILE).build_dataset()
        assert own.sample(0, 0, 0).views[0].min() == 255
    plain = mk.ImageFolder((16, 16), 1, path=str(deep))
    with pytest.warns(match="the largest value is 4095 of 65535"):
        assert plain.still(0).views[0].max() == 16


def test_an_edit_reads_as_the_run_did(run: Path, deep: Path, tmp_path: Path) -> None:
    """What is known of the picture stays as it is: white."""
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:4, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    picture = next((deep / "class0").iterdir())
    done = call("edit", "inpaint", run, picture, tmp_path / "mask.png", "--out", tmp_path / "out", "--steps", 2)
    assert done.exit_code == 0, done.exception
    with Image.open(tmp_path / "out" / "000.png") as painted:
        assert np.asarray(painted)[12:, 12:].min() == 255
