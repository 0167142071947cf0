"""Editing: nothing under the mask reaches any token, what is known stays, any picture fits, and mistakes are told."""

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
from mage_kit.cli import app
from mage_kit.editing import FILLS, edit, to_mask, to_pixels
from mage_kit.editing.frame import Frame, feathered, frame_around, unknown_tokens
from tests import build

TOKENIZERS = {
    "vqgan": build.vqgan,
    "taming": lambda channels: build.taming(channels=channels),
    "llamagen": build.llamagen,
}


def colour(kind: str = "vqgan") -> mk.Mage:
    """A model of 16 x 16 RGB images."""
    return build.mage(TOKENIZERS[kind](3)).eval()


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def hole(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[rows, columns] = True
    return mask


def random_mask(random: np.random.Generator, side: int) -> np.ndarray:
    """A rectangle, a disc, or scattered pixels."""
    form = random.integers(3)
    y, x = np.mgrid[:side, :side]
    if form == 0:
        (top, bottom), (left, right) = np.sort(random.integers(0, side, (2, 2)), axis=1)
        return (y >= top) & (y <= bottom) & (x >= left) & (x <= right)
    if form == 1:
        return (y - random.integers(side)) ** 2 + (x - random.integers(side)) ** 2 <= random.integers(1, side) ** 2
    mask = random.random((side, side)) < random.uniform(0.01, 0.9)
    mask[0, 0] = True
    return mask


def outputs(made: mk.Edited) -> list[bytes]:
    return [picture.tobytes() for picture in made.pictures] + [made.ids_NL.numpy().tobytes(), made.seen.tobytes()]


# -- nothing under the mask gets out -----------------------------------------------------------------------------


def leaks(model: mk.Mage, count: int, side: int = 16, **options: Any) -> int:
    """How many random masks let pixels under them change any bit of the result."""
    random, found = np.random.default_rng(0), 0
    for number in range(count):
        mask, first = random_mask(random, side), photo(side, side, seed=number)
        second = np.where(mask[..., None], photo(side, side, seed=1000 + number), first)
        settings = {"steps": 2, "seed": number, "dilate": 0, **options}
        made = [outputs(mk.inpaint(model, image, mask, **settings)) for image in (first, second)]
        found += made[0] != made[1]
    return found


@pytest.mark.parametrize(
    ("kind", "fill"),
    [
        *((kind, "edge") for kind in TOKENIZERS),
        *(pytest.param(kind, "mean", marks=pytest.mark.slow) for kind in TOKENIZERS),
    ],
)
def test_pixels_under_the_mask_change_no_bit(kind: str, fill: str) -> None:
    assert leaks(colour(kind), 200, fill=fill) == 0


def test_nor_where_the_picture_is_resized(tiny: mk.Mage) -> None:
    """Interpolation mixes neighbours: the hole is filled before it."""
    assert leaks(colour(), 30, side=27) == leaks(colour(), 30, side=27, whole=True) == leaks(colour(), 30, side=11) == 0


def test_without_the_fill_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    monkeypatch.setitem(FILLS, "edge", lambda image, masked: image)
    assert leaks(colour(), 40) > 30


@pytest.mark.parametrize("fill", FILLS)
def test_fills_know_unmasked_pixels_alone(fill: str) -> None:
    image = torch.zeros(3, 9, 14)
    image[0, :, :7], image[1, :, 7:] = 0.8, 0.6
    masked = torch.from_numpy(hole(9, 14, slice(2, 7), slice(3, 12)))
    image[:, masked] = torch.nan
    filled = FILLS[fill](image, masked)
    assert torch.equal(filled[:, ~masked], image[:, ~masked]) and bool(filled.isfinite().all())
    assert float(filled.min()) >= 0 and float(filled[0].max()) <= 0.8 + 1e-6
    if fill == "edge":
        assert filled[0, 4, 3] > 0.6 > 0.2 > filled[0, 4, 11], "the colours beside the hole"
    everything = torch.ones(9, 14, dtype=torch.bool)
    assert torch.equal(FILLS[fill](image, everything), torch.full_like(image, 0.5))


# -- what is known stays -----------------------------------------------------------------------------------------


def test_what_is_painted_depends_on_what_is_around() -> None:
    """And a ring that leaves nothing around known is an error, not a picture of nothing."""
    model = colour()
    build.sharpen(model)
    for edit_it in (
        lambda image, **more: mk.inpaint(model, image, hole(16, 16, slice(0, 16), slice(8, 16)), n=8, **more),
        lambda image, **more: mk.outpaint(model, image[:, :8], right=8, n=8, **more),
        lambda image, **more: mk.uncrop(model, image[:8, :8], 16, 16, n=8, **more),
        lambda image, **more: mk.reconstruct(model, image, 0.5, n=8, seed=1),
    ):
        first, second = edit_it(photo(16, 16), dilate=0), edit_it(255 - photo(16, 16), dilate=0)
        assert int((~first.masked_NL).sum()) > 0
        unknown = first.masked_NL
        assert not torch.equal(first.ids_NL[unknown], second.ids_NL[unknown])
    for call in (
        lambda: mk.uncrop(model, photo(8, 8), 16, 16, dilate=1),
        lambda: mk.inpaint(model, photo(16, 16), hole(16, 16, slice(4, 12), slice(4, 12)), dilate=2),
    ):
        with pytest.raises(ValueError, match=r"dilate: \d, leaves none of the 16 tokens of the window known"):
            call()
    made = mk.uncrop(model, photo(8, 8), 16, 16)
    assert made.settings["dilate"] == 0 and made.settings["known_tokens"] == 4, "nobody asked for a ring"


@pytest.mark.parametrize("shape", [(1, 50), (3, 16), (16, 3), (40, 7)])
def test_thin_pictures_keep_the_share_that_is_asked_for(shape: tuple[int, int]) -> None:
    made = mk.reconstruct(colour(), photo(*shape), 0.25, n=2, steps=2)
    assert int((~made.masked_NL[0]).sum()) >= 1 and made.settings["known_tokens"] == int((~made.masked_NL[0]).sum())
    assert made.pictures[0].size == (shape[1], shape[0])


@pytest.mark.parametrize("dilate", [0, 1, 2])
def test_known_tokens_are_those_of_the_filled_picture(dilate: int) -> None:
    model, image = colour(), photo(16, 16)
    made = mk.inpaint(model, image, hole(16, 16, slice(5, 7), slice(13, 15)), n=3, dilate=dilate, steps=3)
    tokens = model.tokenizer.encode(torch.from_numpy(np.array(made.seen)).permute(2, 0, 1)[None].float() / 255)
    known = ~made.masked_NL
    assert torch.equal(made.ids_NL[known], tokens.expand(3, -1)[known])
    cells = np.zeros((4, 4), dtype=bool)
    cells[max(0, 1 - dilate) : 2 + dilate, 3 - dilate :] = True
    assert made.masked_NL[0].tolist() == cells.flatten().tolist()
    assert not torch.equal(made.ids_NL[0], made.ids_NL[1])
    assert torch.equal(made.log_p_NL == 0, known)


def test_original_pixels_are_put_back_around_the_hole() -> None:
    model, image, mask = colour(), photo(16, 16), hole(16, 16, slice(4, 8), slice(4, 8))
    made = mk.inpaint(model, image, mask, feather=2, steps=2)
    far = ~np.asarray(feathered(torch.from_numpy(mask), 2) > 0)
    result = np.asarray(made.pictures[0])
    assert np.array_equal(result[far], image[far]) and not np.array_equal(result[mask], image[mask])
    plain = np.asarray(mk.inpaint(model, image, mask, paste=False, steps=2).pictures[0])
    assert np.array_equal(plain[mask], result[mask]) and (plain[far] != image[far]).mean() > 0.5
    hard = np.asarray(mk.inpaint(model, image, mask, feather=0, steps=2).pictures[0])
    assert np.array_equal(hard[~mask], image[~mask])


def test_feathering_falls_off_outside_the_hole() -> None:
    alpha = feathered(torch.from_numpy(hole(9, 9, slice(4, 5), slice(4, 5))), 3)
    assert alpha[4].tolist() == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]


def test_variants_follow_seed_and_number() -> None:
    model, image, mask = colour(), photo(16, 16), hole(16, 16, slice(0, 16), slice(8, 16))
    whole = mk.inpaint(model, image, mask, n=5, seed=2, steps=3)
    parts = mk.inpaint(model, image, mask, n=5, seed=2, steps=3, batch=2)
    assert torch.equal(whole.ids_NL, parts.ids_NL)
    assert not torch.equal(whole.ids_NL, mk.inpaint(model, image, mask, n=5, seed=3, steps=3).ids_NL)


def test_every_step_is_kept_when_asked_for() -> None:
    made = mk.inpaint(
        colour(), photo(16, 16), hole(16, 16, slice(0, 8), slice(0, 8)), n=3, batch=2, trace=True, steps=4
    )
    assert made.trace is not None and made.trace.ids_TBL.shape == (4, 3, 16)
    assert torch.equal(made.trace.ids_TBL[-1], made.ids_NL) and not bool(made.trace.masked_TBL[-1].any())


# -- any picture -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (5, 9), (16, 40), (61, 23), (100, 100)])
@pytest.mark.parametrize("whole", [False, True])
def test_any_size_in_the_same_size_out(size: tuple[int, int], whole: bool) -> None:
    image, mask = photo(*size), hole(*size, slice(1, 4), slice(2, 5))
    made = mk.inpaint(colour(), image, mask, whole=whole, steps=2)
    assert made.pictures[0].size == (size[1], size[0]) and made.seen.size == (16, 16)
    frame = made.frame
    rows, columns = frame.inside(*size)
    assert mask[rows, columns].sum() == mask.sum(), "the window shows the hole"
    if whole:
        assert (rows, columns) == (slice(0, size[0]), slice(0, size[1]))
    elif min(size) >= 16:
        assert frame.scale == 1


def test_a_window_gives_the_hole_room() -> None:
    """Half the hole's extent around it where the picture has it, the model's own size at least, the picture at most."""
    size = (16, 16)
    wide = frame_around(torch.from_numpy(hole(200, 300, slice(100, 120), slice(200, 240))), size)
    assert (wide.height, wide.width, wide.left) == (60, 60, 190) and wide.top == 80
    corner = frame_around(torch.from_numpy(hole(200, 300, slice(0, 2), slice(298, 300))), size)
    assert corner == Frame(0, 284, 16, 16, size)
    strip = frame_around(torch.from_numpy(hole(16, 24, slice(0, 16), slice(16, 24))), size)
    assert strip == Frame(0, 8, 16, 16, size), "no room is needed where there is no picture"
    most = frame_around(torch.from_numpy(hole(20, 40, slice(0, 20), slice(0, 40))), size)
    assert most == Frame(-10, 0, 40, 40, size)


def test_no_masked_pixel_gets_lost_on_the_way_to_the_tokens() -> None:
    spec = mk.TokenGrid(4, 4)
    inside = torch.zeros(97, 97, dtype=torch.bool)
    for place in range(0, 97, 7):
        mask = inside.clone()
        mask[place, 96 - place] = True
        unknown = unknown_tokens(mask, inside, (16, 16), spec, 0)
        assert 1 <= int(unknown.sum()) <= 4 and bool(
            unknown.unflatten(0, (4, 4))[place * 4 // 97, (96 - place) * 4 // 97]
        )


def test_what_lies_outside_the_picture_is_unknown() -> None:
    made = mk.inpaint(colour(), photo(8, 16), hole(8, 16, slice(0, 2), slice(0, 2)), whole=True, dilate=0, steps=2)
    assert made.masked_NL[0].unflatten(0, (4, 4)).tolist() == [
        [True] * 4,
        [True, *[False] * 3],
        [False] * 4,
        [True] * 4,
    ]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "1", "LA"])
def test_pictures_of_every_mode(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo(20, 20, 1)[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(photo(20, 20)).convert(mode)
    made = mk.inpaint(colour(), image, Image.fromarray(hole(20, 20, slice(3, 9), slice(3, 9))), steps=2, feather=0)
    assert made.pictures[0].mode == "RGB"
    assert np.array_equal(np.asarray(made.pictures[0])[15], to_pixels(image, 3)[:, 15].T)


def test_grey_and_alpha_models() -> None:
    for channels, mode in ((1, "L"), (4, "RGBA")):
        made = mk.inpaint(
            build.mage(build.vqgan(channels)).eval(), photo(16, 16), hole(16, 16, slice(0, 5), slice(0, 5)), steps=2
        )
        assert made.pictures[0].mode == mode


def test_arrays_and_pictures_mean_the_same() -> None:
    image, mask = photo(16, 16), hole(16, 16, slice(2, 9), slice(2, 9))
    model = colour()
    wanted = mk.inpaint(model, image, mask, steps=2).pictures[0]
    white = Image.fromarray(mask.astype(np.uint8) * 255)
    for other, cover in (
        (Image.fromarray(image), white),
        (image / 255.0, np.asarray(white)),
        (image, white.convert("1")),
    ):
        assert mk.inpaint(model, other, cover, steps=2).pictures[0].tobytes() == wanted.tobytes()


# -- the other edits ---------------------------------------------------------------------------------------------


def test_outpainting_adds_what_is_asked_for() -> None:
    image = photo(16, 12)
    made = mk.outpaint(colour(), image, left=4, bottom=5, feather=0, steps=2)
    assert made.pictures[0].size == (16, 21)
    assert np.array_equal(np.asarray(made.pictures[0])[:16, 4:], image)
    assert np.array_equal(np.asarray(made.given)[16:], np.full((5, 16, 3), 128))
    assert made.settings["left"] == 4 and made.settings["what"] == "outpaint"


def test_uncropping_sets_the_picture_where_it_is_wanted() -> None:
    image = photo(6, 8)
    made = mk.uncrop(colour(), image, 16, 16, across=0.0, down=1.0, feather=0, steps=2)
    assert np.array_equal(np.asarray(made.pictures[0])[10:, :8], image) and made.settings["at"] == [0, 10]
    assert mk.uncrop(colour(), image, 40, 30, steps=2).pictures[0].size == (40, 30)


def test_reconstruction_masks_a_share_of_the_tokens() -> None:
    made = mk.reconstruct(colour(), photo(16, 16), 0.55, n=4, steps=2)
    assert made.masked_NL.sum(dim=1).tolist() == [9] * 4
    assert len({tuple(row.tolist()) for row in made.masked_NL}) == 4
    half = mk.reconstruct(colour(), photo(8, 16), 0.5, n=2, steps=2)  # rows above and below show no picture
    assert half.masked_NL.unflatten(1, (4, 4))[:, [0, 3]].all() and half.masked_NL.sum(dim=1).tolist() == [12] * 2
    everything = mk.reconstruct(colour(), photo(16, 16), 1.0, n=2, steps=2)
    blank = mk.generate(colour(), 2, steps=2)
    assert torch.equal(everything.ids_NL, blank.ids_BL)


def test_everything_masked_is_generation_from_nothing() -> None:
    model = colour()
    made = mk.inpaint(model, photo(16, 16), np.ones((16, 16), dtype=bool), n=2, steps=2)
    assert torch.equal(made.ids_NL, mk.generate(model, 2, steps=2).ids_BL)


def test_conditional_models_are_told_the_class() -> None:
    model = build.mage(build.vqgan(3), decoder=mk.ClassViTDecoder(32, 16, classes=3, dim=24, depth=1, heads=4)).eval()
    build.sharpen(model)
    args = (model, photo(16, 16), hole(16, 16, slice(0, 16), slice(0, 8)))
    made = [mk.inpaint(*args, labels=label, n=3, steps=3).ids_NL for label in (None, -1, 0, 2)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[2], made[3])
    with pytest.raises(ValueError, match="labels: 3, must be whole numbers from 0 to 2"):
        mk.inpaint(*args, labels=3)


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
        ({"n": 0}, "n: 0, must be a whole number of at least 1"),
        ({"n": 1.0}, "n: 1.0, must be a whole number of at least 1"),
        ({"dilate": -1}, "dilate: -1, must be a whole number of at least 0"),
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
        (lambda: mk.outpaint(model, image, left=-3), "left: -3, must be a whole number of at least 0"),
        (lambda: mk.uncrop(model, image, 16, 16), r"canvas: 16 x 16, must be larger than the image \(16 x 16\)"),
        (lambda: mk.uncrop(model, image, 40, 10), "canvas: 40 x 10, must be larger"),
        (lambda: mk.uncrop(model, image, 20.0, 20), "width: 20.0, must be a whole number of pixels"),  # type: ignore[arg-type]
        (lambda: mk.uncrop(model, image, 40, 40, across=1.5), r"across: 1.5, must lie in \[0, 1\]"),
        (lambda: mk.reconstruct(model, image, 0.0), r"ratio: 0.0, must lie in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_animations_are_refused() -> None:
    frames = [Image.fromarray(photo(16, 16, seed=seed)) for seed in range(3)]
    held = io.BytesIO()
    frames[0].save(held, format="GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="image: animated, 3 frames, must be one picture"):
        to_pixels(Image.open(held), 3)


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
    names = {"000.png", "001.png", "given.png", "seen.png", "sheet.png", "steps.gif", "settings.json"}
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
    assert "400000000 pixels" in str(done.exception) or "must be at most" in str(done.exception)
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
