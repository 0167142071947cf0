"""Generation from Python: from nothing to pictures, reproducible image by image, never a black picture in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.cli.generate_files import generate_files
from mage_kit.generation.animation import Animation
from mage_kit.images.pictures import grid_picture
from tests import build


def test_images_follow_seed_and_index_not_the_batch(tiny: mk.Mage) -> None:
    whole = mk.generate(tiny, 10, seed=4, batch=10)
    parts = mk.generate(tiny, 10, seed=4, batch=3)
    assert torch.equal(whole.ids_BL, parts.ids_BL)
    torch.testing.assert_close(whole.images_BCHW, parts.images_BCHW)
    assert not torch.equal(whole.ids_BL, mk.generate(tiny, 10, seed=5).ids_BL)
    assert float(whole.images_BCHW.min()) >= 0 and float(whole.images_BCHW.max()) <= 1


def test_settings_given_win_over_the_models_own(tiny: mk.Mage) -> None:
    tiny.decoding = mk.Decoding(mk.CosineSchedule(), mk.GumbelConfidence(), 6)
    own = mk.generate(tiny, 4)
    assert torch.equal(own.ids_BL, mk.generate(tiny, 4, steps=6, schedule=mk.CosineSchedule()).ids_BL)
    for change in ({"steps": 3}, {"selection": mk.Halton()}, {"schedule": mk.LinearSchedule()}):
        assert not torch.equal(own.ids_BL, mk.generate(tiny, 4, **change).ids_BL)


def test_training_mode_is_left_as_it_was() -> None:
    model = build.mage().train()
    first = mk.generate(model, 2)
    assert model.training and torch.equal(first.ids_BL, mk.generate(model, 2).ids_BL)


@pytest.mark.parametrize("name", ["n", "steps", "batch"])
def test_counts_below_one_are_refused(tiny: mk.Mage, name: str) -> None:
    settings = {"n": 2, "steps": 2, "batch": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name}: 0, must be at least 1"):
        mk.generate(tiny, **settings)


def test_a_model_without_codes_says_so() -> None:
    model = build.mage(mk.Patches(image_size=(16, 16), channels=1, patch=4))
    with pytest.raises(mk.PartsError, match="sampling needs codes, Patches has none"):
        mk.generate(model, 1)


def test_damaged_weights_raise_instead_of_a_black_picture() -> None:
    model = build.mage()
    with torch.no_grad():
        model.head.bias[3] = torch.nan
    with pytest.raises(ValueError, match="logits: not finite"):
        mk.generate(model, 1)
    model = build.mage()
    with torch.no_grad():
        model.tokenizer.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="images: not finite"):
        mk.generate(model, 1)


def test_a_picture_is_written_and_not_overwritten_unasked(tiny: mk.Mage, tmp_path: Path) -> None:
    made = mk.generate(tiny, 10)
    made.save(tmp_path / "ten.png", columns=4)
    assert Image.open(tmp_path / "ten.png").size == (4 * 18 - 2, 3 * 18 - 2)
    with pytest.raises(mk.MageKitError, match="exists"):
        made.save(tmp_path / "ten.png")
    made.save(tmp_path / "ten.png", overwrite=True)


def test_a_model_composed_in_python_trains_by_one_call(tmp_path: Path) -> None:
    recipe = mk.Recipe.of(build.mage()).extended(
        data={"kind": "digits"},
        tokenizer_training={"kind": "reconstruct", "steps": 5, "batch": 64},
        training={"kind": "masked", "batch": 256, "epochs": 1, "warmup_epochs": 0, "log_every": 1},
    )
    model = mk.load(mk.train(recipe, tmp_path / "run"))
    assert model.spec == build.mage().spec and mk.generate(model, 2).images_BCHW.shape == (2, 1, 16, 16)
    with pytest.raises(mk.RecipeError, match=r"\$\.data: missing"):
        mk.train(recipe.extended(data=None), tmp_path / "no")


def test_progress_is_a_bar_in_a_terminal_and_lines_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    with Reporter().task("counting", 3) as task:
        for done in (1, 2, 3):
            task.update(done, "note")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("counting: 3/3  note")
    with Reporter(Console(force_terminal=True, width=100)).task("counting", 3) as task:
        task.update(3, "note")
    assert "3/3" in capsys.readouterr().out


def test_a_sheets_settings_replace_nothing_else(tmp_path: Path) -> None:
    """Not the picture itself, and not a run's own files."""
    folder = mk.save(build.mage().eval(), tmp_path / "model")
    for name in ("x.json", "x.jpg", "x"):
        with pytest.raises(mk.MageKitError, match=r"must be named .png"):
            generate_files(folder, 1, changes={}, out=tmp_path / name, reporter=Reporter.silent())
    with pytest.raises(mk.MageKitError, match="its settings would replace"):
        generate_files(folder, 1, changes={}, out=folder / "recipe.png", overwrite=True, reporter=Reporter.silent())
    out = tmp_path / "sheet.png"
    for _ in range(2):
        generate_files(folder, 3, changes={"steps": 2}, out=out, gif=True, overwrite=True, reporter=Reporter.silent())
    stated = json.loads(out.with_suffix(".json").read_text())
    assert stated["images"] == 3 and stated["decoding"]["steps"] == 2 and out.with_suffix(".gif").is_file()
    with Image.open(out) as sheet:
        assert json.loads(sheet.info["mage_kit"]) == stated
    generate_files(folder, 4, changes={"steps": 2}, out=out, overwrite=True, reporter=Reporter.silent())
    assert not out.with_suffix(".gif").exists(), "it showed other images"
    out.with_suffix(".gif").write_bytes(b"somebody's own")
    generate_files(folder, 4, changes={"steps": 2}, out=out, overwrite=True, reporter=Reporter.silent())
    assert out.with_suffix(".gif").read_bytes() == b"somebody's own"


def test_an_animation_is_of_the_first_images_and_ends_in_them(tmp_path: Path) -> None:
    model = build.mage().eval()
    animation = Animation(model, most=5, columns=5)
    made = mk.generate(model, 7, batch=3, steps=4, watch=animation.watch)
    frames = animation.frames()
    assert len(frames) == 4
    assert np.array_equal(np.asarray(frames[-1]), np.asarray(grid_picture(made.images_BCHW[:5], 5)))
