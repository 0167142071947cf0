"""Editing from the command line, and what cannot be edited."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.base.progress import Reporter
from mage_kit.cli import app
from mage_kit.cli.generate_files import generate_files
from mage_kit.editing import edit, to_mask, to_pixels
from tests import build
from tests.editing.test_editing import colour, hole, photo

# -- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask": np.zeros((16, 16), dtype=bool)}, "mask: nothing is masked"),
        ({"mask": np.ones((16, 12), dtype=bool)}, "mask: 12 x 16 pixels, must be 16 x 16, the size of the image"),
        ({"image": photo(16, 16)[..., 0].astype(np.int64)}, "image: an array of int64, must be uint8"),
        ({"image": np.full((16, 16), 3.0)}, r"image: floating values outside \[0, 1\]"),
        ({"image": np.full((16, 16), np.nan)}, r"image: floating values outside \[0, 1\]"),
        ({"image": np.zeros((16, 16, 2), dtype=np.uint8)}, r"image: an array of shape \(16, 16, 2\), must be"),
        ({"image": np.zeros((0, 16, 3), dtype=np.uint8)}, "image: an array of shape"),
        ({"n": 0}, "n: 0, must be at least 1"),
        ({"n": 1.0}, "n: 1.0, must be a whole number of at least 1"),
        ({"dilate": -1}, "dilate: -1, must be at least 0"),
        ({"feather": 1_000_000}, "feather: 1000000, must be at most 256"),
        ({"selection": "halton"}, r"selection: 'halton', must be a Selection, as mage_kit.Halton\(\)"),
        ({"selection": mk.Halton}, "selection: .*must be a Selection"),
        ({"steps": 10**9}, "steps: 1000000000, must be at most 10,000"),
        ({"image": "photo.jpg"}, "image: 'photo.jpg', a path, must be a picture"),
        ({"mask": photo(16, 16)[..., 0] // 255}, "mask: nothing is masked.*zeros and ones"),
        ({"feather": 1.5}, "feather: 1.5, must be a whole number of at least 0"),
        ({"fill": "black"}, "fill: 'black', must be one of mean, edge"),
    ],
)
def test_what_cannot_be_edited_is_said(change: dict[str, Any], said: str) -> None:
    given = {"image": photo(16, 16), "mask": hole(16, 16, slice(0, 4), slice(0, 4)), **change}
    with pytest.raises(ValueError, match=said):
        mk.inpaint(colour(), **given)


def test_masks_with_transparency_are_white_where_they_are_seen_to_be() -> None:
    layer = Image.new("RGBA", (16, 16))  # as an image editor exports a stroke
    layer.paste((255, 255, 255, 255), (2, 3, 6, 9))
    assert np.array_equal(to_mask(layer, (16, 16)), hole(16, 16, slice(3, 9), slice(2, 6)))
    assert np.array_equal(to_mask(np.array(layer), (16, 16)), hole(16, 16, slice(3, 9), slice(2, 6)))


def test_a_cameras_second_picture_is_no_animation(tmp_path: Path) -> None:
    views = [Image.fromarray(photo(24, 32, seed=seed)) for seed in (0, 1)]
    views[0].save(tmp_path / "two.mpo", format="MPO", save_all=True, append_images=views[1:])
    with Image.open(tmp_path / "two.mpo") as opened:
        assert opened.n_frames == 2 and to_pixels(opened, 3).shape == (3, 24, 32)


def test_a_window_too_large_for_memory_is_refused() -> None:
    strip = np.zeros((200, 10_000, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="image: a window of 10000 x 10000 pixels shows the hole, must be at most"):
        mk.reconstruct(colour(), strip, 0.5)


def test_canvases_that_cannot_be() -> None:
    model, image = colour(), photo(16, 16)
    for call, said in (
        (lambda: mk.outpaint(model, image), "all 0, one must be at least 1"),
        (lambda: mk.outpaint(model, image, left=-3), "left: -3, must be at least 0"),
        (lambda: mk.uncrop(model, image, 16, 16), r"canvas: 16 x 16, must be larger than the image \(16 x 16\)"),
        (lambda: mk.outpaint(model, image, right=10**8), "canvas: 100000016 x 16 pixels, must be at most 89,478,485"),
        (lambda: mk.uncrop(model, image, 40, 10), "canvas: 40 x 10, must be larger"),
        (lambda: mk.uncrop(model, image, 20.0, 20), "width: 20.0, must be a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: mk.uncrop(model, image, 40, 40, across=1.5), r"across: 1.5, must lie in \[0, 1\]"),
        (lambda: mk.reconstruct(model, image, 0.0), r"ratio: 0.0, must lie in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_of_an_animation_the_first_frame_is_edited() -> None:
    frames = [Image.fromarray(photo(16, 16, seed=seed)) for seed in range(3)]
    held = io.BytesIO()
    frames[0].save(held, format="GIF", save_all=True, append_images=frames[1:])
    with pytest.warns(FileWarning, match="'image', animated: of such files the first frame is taken"):
        assert to_pixels(Image.open(held), 3).shape == (3, 16, 16)


def test_a_model_without_codes_cannot_edit() -> None:
    model = build.mage(mk.Patches(image_size=(16, 16), channels=3, patch=4))
    with pytest.raises(mk.PartsError, match="inpaint needs codes, Patches has none"):
        mk.inpaint(model, photo(16, 16), hole(16, 16, slice(0, 4), slice(0, 4)))


def test_a_grey_mask_is_white_from_the_middle_on() -> None:
    grey = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    assert to_mask(Image.fromarray(grey), (8, 256))[0].tolist() == [value >= 128 for value in range(256)]


# -- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return mk.save(colour(), tmp_path / "model")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["edit", *map(str, arguments)])


def test_edited_pictures_and_how_they_were_made(run: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(20, 30)).save(tmp_path / "in.png")
    Image.fromarray(hole(20, 30, slice(4, 9), slice(4, 9))).save(tmp_path / "mask.png")
    done = call(
        "inpaint", run, tmp_path / "in.png", tmp_path / "mask.png", "-o", tmp_path / "out", "-n", 2, "--seed", 5,
        "--selection", "halton", "--temperature", "1.2,0.8", "--top-k", 9, "--gif", "--steps", 3,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    names = {"000.png", "001.png", "canvas.png", "window.png", "sheet.png", "steps.gif", "settings.json"}
    assert {path.name for path in out.iterdir()} == names
    settings = json.loads((out / "settings.json").read_text())
    assert settings["what"] == "inpaint" and settings["seed"] == 5 and settings["decoding"]["steps"] == 3
    assert settings["decoding"]["selection"] == {"kind": "halton"} and settings["decoding"]["token_temperature"] == [
        1.2,
        0.8,
    ]
    with Image.open(out / "001.png") as picture:
        assert picture.size == (30, 20) and json.loads(picture.info["mage_kit"]) == {**settings, "index": 1}
    with Image.open(out / "steps.gif") as animation:
        assert animation.n_frames == 3
    again = ("inpaint", run, tmp_path / "in.png", tmp_path / "mask.png", "-o", out)
    assert call(*again).exit_code != 0 and call(*again, "--overwrite").exit_code == 0
    assert {path.name for path in out.iterdir()} == names - {"001.png", "steps.gif"}
    (out / "mine.txt").write_text("kept")
    assert "mine.txt" in str(call(*again, "--overwrite").exception) and (out / "mine.txt").exists()


def test_the_other_edits_from_the_command_line(run: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(10, 14)).save(tmp_path / "in.jpg")
    common = (run, tmp_path / "in.jpg")
    assert call("outpaint", *common, "-o", tmp_path / "a", "--right", 6, "--steps", 2).exit_code == 0
    assert Image.open(tmp_path / "a" / "000.png").size == (20, 10)
    assert call("uncrop", *common, 32, 24, "-o", tmp_path / "b", "--steps", 2).exit_code == 0
    assert Image.open(tmp_path / "b" / "000.png").size == (32, 24)
    assert call("reconstruct", *common, "-o", tmp_path / "c", "-n", 3, "--ratio", 0.5, "--steps", 2).exit_code == 0
    assert Image.open(tmp_path / "c" / "002.png").size == (14, 10)


def test_what_a_picture_loses_and_where_it_has_no_say_is_told(tmp_path: Path) -> None:
    grey = mk.save(build.mage().eval(), tmp_path / "grey")
    Image.fromarray(np.dstack([photo(16, 16), np.full((16, 16), 200, np.uint8)])).save(tmp_path / "in.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "all.png")
    done = call("inpaint", grey, tmp_path / "in.png", tmp_path / "all.png", "-o", tmp_path / "out", "--steps", 2)
    assert done.exit_code == 0, done.output
    for said in ("written, in grey", "transparent places turn white", "none of the 16 tokens of the window is known"):
        assert said in done.stderr, done.stderr
    Image.fromarray(hole(16, 16, slice(0, 4), slice(0, 4))).save(tmp_path / "part.png")
    Image.fromarray(photo(16, 16)[..., 0]).save(tmp_path / "plain.png")
    done = call("inpaint", grey, tmp_path / "plain.png", tmp_path / "part.png", "-o", tmp_path / "two", "--steps", 2)
    assert done.exit_code == 0 and "note" not in done.stderr


def test_places_that_take_no_files_are_told_before_anything_is_made(run: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(16, 16)).save(tmp_path / "in.png")
    (tmp_path / "file").write_text("a file")
    done = call("reconstruct", run, tmp_path / "in.png", "-o", tmp_path / "file" / "out")
    assert "takes no files" in str(done.exception)
    with pytest.raises(mk.MageKitError, match=r"file/x.png': cannot be written, '.*file' takes no files"):
        generate_files(run, 1, changes={}, out=tmp_path / "file" / "x.png", reporter=Reporter.silent())
    done = call("reconstruct", run, tmp_path, "-o", tmp_path / "out")
    assert "is a folder, must be a picture" in str(done.exception)


def test_files_that_are_no_pictures(run: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(hole(16, 16, slice(0, 4), slice(0, 4))).save(mask)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    for name, said in (("empty.png", "empty.png"), ("text.png", "text.png"), ("none.png", "there is no such file")):
        done = call("inpaint", run, tmp_path / name, mask, "-o", tmp_path / "out")
        assert isinstance(done.exception, mk.MageKitError) and said in str(done.exception)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    done = call("inpaint", run, tmp_path / "huge.png", mask, "-o", tmp_path / "out")
    assert "too large, must be at most 89,478,485 pixels" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--temperature", "warm"), "--temperature: 'warm', must be a number, or FIRST,LAST"),
        (("--selection", "halten"), "halten"),
        (("--schedule", '{"kind": "power", "exponent": -1}'), "--schedule.exponent"),
        (("--guidance", "2"), "guidance: given, but ViTDecoder takes no labels"),
        (("--guidance", "{"), "--guidance: '{', not JSON"),
        (("--class", "2"), "labels: given, but ViTDecoder takes none"),
    ],
)
def test_options_that_cannot_be(run: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    Image.fromarray(photo(16, 16)).save(tmp_path / "in.png")
    done = call("reconstruct", run, tmp_path / "in.png", "-o", tmp_path / "out", *options)
    assert isinstance(done.exception, ValueError) and said in str(done.exception)


def test_presets_and_what_changes_them_further(run: Path, tmp_path: Path) -> None:
    Image.fromarray(photo(16, 16)).save(tmp_path / "in.png")
    done = call("reconstruct", run, tmp_path / "in.png", "-o", tmp_path / "out", "--preset", "inpaint", "--steps", 3)
    assert done.exit_code == 0, done.output
    decoding = json.loads((tmp_path / "out" / "settings.json").read_text())["decoding"]
    assert decoding["steps"] == 3 and decoding["token_temperature"] == [0.7, 0.7]
    assert decoding["selection"] == {"kind": "gumbel_confidence", "temperature": 1.0}
    model = colour()
    paper = mk.generate(model, 2, **mk.PRESETS["unconditional"])
    assert torch.equal(paper.ids_BL, mk.generate(model, 2, steps=20, selection=mk.GumbelConfidence()).ids_BL)


def test_editing_is_one_module() -> None:
    assert edit.inpaint is mk.inpaint
