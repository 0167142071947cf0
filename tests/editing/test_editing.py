"""Editing: nothing under the mask reaches any token, what is known stays, any picture fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mage_kit as mk
from mage_kit.editing import FILLS
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
    return [picture.tobytes() for picture in made.pictures] + [made.ids_NL.numpy().tobytes(), made.window.tobytes()]


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
    tokens = model.tokenizer.encode(torch.from_numpy(np.array(made.window)).permute(2, 0, 1)[None].float() / 255)
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
    assert made.pictures[0].size == (size[1], size[0]) and made.window.size == (16, 16)
    frame = made.frame
    rows, columns = frame.inside(*size)
    assert mask[rows, columns].sum() == mask.sum(), "the window shows the hole"
    if whole:
        assert (rows, columns) == (slice(0, size[0]), slice(0, size[1]))
    elif min(size) >= 16:
        assert frame.scale == 1


def test_a_window_gives_the_hole_room() -> None:
    """Half the hole's extent around it where the picture has it, the model's own size at least, the picture at most."""
    size, fine = (16, 16), mk.TokenGrid(16, 16)
    wide = frame_around(torch.from_numpy(hole(200, 300, slice(100, 120), slice(200, 240))), size, fine, 1)
    assert (wide.height, wide.width, wide.left) == (60, 60, 190) and wide.top == 80
    corner = frame_around(torch.from_numpy(hole(200, 300, slice(0, 2), slice(298, 300))), size, fine, 1)
    assert corner == Frame(0, 284, 16, 16, size)
    strip = frame_around(torch.from_numpy(hole(16, 24, slice(0, 16), slice(16, 24))), size, fine, 1)
    assert strip == Frame(0, 8, 16, 16, size), "no room is needed where there is no picture"
    most = frame_around(torch.from_numpy(hole(20, 40, slice(0, 20), slice(0, 40))), size, fine, 1)
    assert most == Frame(-10, 0, 40, 40, size)


@pytest.mark.parametrize("cells", [4, 8, 16])
def test_tokens_beside_a_hole_stay_known_on_coarse_grids_too(cells: int) -> None:
    """Wherever a square hole lies, and however it lies across the cells."""
    grid, size, random = mk.TokenGrid(cells, cells), (32, 32), np.random.default_rng(0)
    ring = mk.editing.EditSettings().ring(grid)
    assert ring == int(cells >= 8)
    for _ in range(60):
        side = int(random.integers(1, 60))
        top, left = int(random.integers(0, 240 - side)), int(random.integers(0, 320 - side))
        mask = torch.from_numpy(hole(240, 320, slice(top, top + side), slice(left, left + side)))
        frame = frame_around(mask, size, grid, ring)
        _, hole_HW, outside_HW = frame.cut(torch.zeros(3, 240, 320), mask)
        unknown_L = unknown_tokens(hole_HW, outside_HW, size, grid, ring)
        assert not unknown_L.all(), (side, top, left)


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
