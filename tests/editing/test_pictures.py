"""What editing takes and gives: modes, arrays, canvases that grow, tokens masked at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import mage_kit as mk
from mage_kit.editing import to_pixels
from tests import build
from tests.editing.test_editing import colour, hole, photo


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "1", "LA"])
def test_pictures_of_every_mode(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo(20, 20, 1)[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(photo(20, 20)).convert(mode)
    result = mk.inpaint(colour(), image, Image.fromarray(hole(20, 20, slice(3, 9), slice(3, 9))), steps=2, feather=0)
    assert result.pictures[0].mode == "RGB"
    assert np.array_equal(np.asarray(result.pictures[0])[15], to_pixels(image, 3)[:, 15].T)


def test_grey_and_alpha_models() -> None:
    for channels, mode in ((1, "L"), (4, "RGBA")):
        result = mk.inpaint(
            build.mage(build.vqgan(channels)).eval(), photo(16, 16), hole(16, 16, slice(0, 5), slice(0, 5)), steps=2
        )
        assert result.pictures[0].mode == mode


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


def test_outpainting_adds_what_is_asked_for() -> None:
    image = photo(16, 12)
    result = mk.outpaint(colour(), image, left=4, bottom=5, feather=0, steps=2)
    assert result.pictures[0].size == (16, 21)
    assert np.array_equal(np.asarray(result.pictures[0])[:16, 4:], image)
    assert np.array_equal(np.asarray(result.canvas)[16:], np.full((5, 16, 3), 128))
    assert result.settings["left"] == 4 and result.settings["what"] == "outpaint"


def test_uncropping_sets_the_picture_where_it_is_wanted() -> None:
    image = photo(6, 8)
    result = mk.uncrop(colour(), image, 16, 16, across=0.0, down=1.0, feather=0, steps=2)
    assert np.array_equal(np.asarray(result.pictures[0])[10:, :8], image) and result.settings["at"] == [0, 10]
    assert mk.uncrop(colour(), image, 40, 30, steps=2).pictures[0].size == (40, 30)


def test_reconstruction_masks_a_share_of_the_tokens() -> None:
    result = mk.reconstruct(colour(), photo(16, 16), 0.55, n=4, steps=2)
    assert result.masked_NL.sum(dim=1).tolist() == [9] * 4
    assert len({tuple(row.tolist()) for row in result.masked_NL}) == 4
    shown = np.asarray(result.canvas).reshape(4, 4, 4, 4, 3)
    grey = (shown == 128).all(axis=(1, 3, 4)).flatten()
    assert np.array_equal(grey, result.masked_NL[0].numpy()), "the picture as given shows the first variant's cells"
    half = mk.reconstruct(colour(), photo(8, 16), 0.5, n=2, steps=2)  # rows above and below show no picture
    assert half.masked_NL.unflatten(1, (4, 4))[:, [0, 3]].all() and half.masked_NL.sum(dim=1).tolist() == [12] * 2
    everything = mk.reconstruct(colour(), photo(16, 16), 1.0, n=2, steps=2)
    blank = mk.generate(colour(), 2, steps=2)
    assert torch.equal(everything.ids_NL, blank.ids_BL)


def test_everything_masked_is_generation_from_nothing() -> None:
    model = colour()
    result = mk.inpaint(model, photo(16, 16), np.ones((16, 16), dtype=bool), n=2, steps=2)
    assert torch.equal(result.ids_NL, mk.generate(model, 2, steps=2).ids_BL)


def test_conditional_models_are_told_the_class() -> None:
    model = build.mage(build.vqgan(3), decoder=mk.ClassViTDecoder(32, 16, classes=3, dim=24, depth=1, heads=4)).eval()
    build.sharpen(model)
    args = (model, photo(16, 16), hole(16, 16, slice(0, 16), slice(0, 16)))
    result = [mk.inpaint(*args, labels=label, n=3, steps=3).ids_NL for label in (None, -1, 0, 2)]
    assert torch.equal(result[0], result[1]) and not torch.equal(result[2], result[3])
    with pytest.raises(ValueError, match="labels: 3, must be whole numbers from 0 to 2"):
        mk.inpaint(*args, labels=3)
