"""A tokenizer made for the images that there are: their size, their channels, said in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.recipes.data_fit import fit_to_data


def pictures(folder: Path, *sizes: tuple[int, int], mode: str = "RGB", suffix: str = "png") -> Path:
    """Write noise of these widths and heights."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:02d}.{suffix}")
    return folder


def photos(folder: Path, **training: Any) -> mk.Recipe:
    recipe = mk.Recipe.load("vqgan_photos").changed("data", path=str(folder), part="all")
    return recipe.changed("training", **training) if training else recipe


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(300, 200)] * 3, 64),  # what the recipe states is enough
        ([(64, 64)], 64),
        ([(32, 40)] * 3, 32),
        ([(30, 30)] * 3, 24),  # an even number of tokens of 4 pixels
        ([(30, 30)] + [(300, 200)] * 19, 64),  # few small ones are enlarged
        ([(3, 3)], 8),
    ],
)
def test_size(sizes: list[tuple[int, int]], side: int, tmp_path: Path) -> None:
    recipe, lines = fit_to_data(photos(pictures(tmp_path / "data", *sizes)))
    assert recipe.tokenizer.get("image_size") == (side, side) and recipe.fit == ()
    assert f"{side} x {side} pixels (short sides of {len(sizes)} images" in lines[0]
    assert fit_to_data(recipe) == (recipe, []), "nothing is left to take"


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("1", "png"), ("I;16", "png"), ("L", "jpg")])
def test_grey(mode: str, suffix: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data", (80, 80), mode="L" if mode == "I;16" else mode, suffix=suffix)
    if mode == "I;16":
        Image.fromarray(np.full((80, 80), 5000, dtype=np.uint16)).save(folder / "00.png")
    recipe, lines = fit_to_data(photos(folder, perceptual=None))
    assert recipe.tokenizer.get("channels") == 1 and "1 channel (they are grey)" in lines[0]
    recipe, lines = fit_to_data(photos(folder))
    assert recipe.tokenizer.get("channels") == 3 and "perceptual distance squeezenet is not" in lines[0]
    mk.check(recipe)


def test_grey_in_a_file_of_three_channels(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data", (90, 80))
    for name in ("00.png", "01.jpg"):
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 90), dtype=np.uint8)).convert("RGB").save(
            folder / name
        )
    assert fit_to_data(photos(folder, perceptual=None))[0].tokenizer.get("channels") == 1
    pictures(tmp_path / "one", (90, 80))
    (tmp_path / "one" / "00.png").rename(folder / "02.png")
    recipe, lines = fit_to_data(photos(folder, perceptual=None))
    assert recipe.tokenizer.get("channels") == 3 and "they have colour" in lines[0]


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    recipe = photos(pictures(tmp_path / "data", (32, 32), mode="L"), perceptual=None)
    sized = fit_to_data(recipe.extended(fit=["image_size"]))[0]
    assert sized.tokenizer.get("image_size") == (32, 32) and sized.tokenizer.get("channels") == 3
    stated = recipe.extended(fit=[])
    assert fit_to_data(stated) == (stated, [])
    trained = recipe.extended(tokenizer={**recipe.tokenizer.model_dump(mode="json"), "weights": "somewhere"})
    assert fit_to_data(trained)[0].tokenizer.get("image_size") == (64, 64), "a trained one keeps its own"


def test_broken_images_are_passed_over(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "data", (40, 40), (40, 40))
    (folder / "00.png").write_bytes(b"none")
    assert fit_to_data(photos(folder))[0].tokenizer.get("image_size") == (40, 40)
    (folder / "01.png").write_bytes(b"none")
    with pytest.raises(mk.MageKitError, match=r"no image could be read, of 2; the last: .*0[01]\.png"):
        fit_to_data(photos(folder))
    with pytest.raises(mk.RecipeError, match=r"fit\[0\]: .*image_size"):
        photos(folder).extended(fit=["size"])


def test_training_says_it_and_the_run_states_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(tmp_path / "data", *[(20, 16)] * 8, mode="L")
    recipe = photos(folder, perceptual=None, steps=2, batch=4, warmup_steps=1)
    tokenizer = {**recipe.tokenizer.model_dump(mode="json"), "base_channels": 8, "norm_groups": 4}
    recipe = recipe.extended(tokenizer=tokenizer, training={**recipe.training.model_dump(mode="json")})
    run = mk.train(recipe, tmp_path / "run")
    assert "tokenizer as the images are: 16 x 16 pixels" in capsys.readouterr().err
    stored = mk.Recipe.load(run / "recipe.json")
    assert stored.tokenizer.get("image_size") == (16, 16) and stored.tokenizer.get("channels") == 1
    assert stored.fit == () and mk.load_tokenizer(run).image_size == (16, 16)
    assert mk.train(recipe, run, resume=True) == run, "the same command goes on"
