"""Colour jitter, grey and blur: each by what it must do to pixels, and its draws by what they depend on."""

from __future__ import annotations

import colorsys
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import mage_kit as mk
from mage_kit.images.distortion import distort

NOTHING: dict[str, Any] = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(seed: int = 0, side: int = 16) -> Image.Image:
    return Image.fromarray(random(seed).integers(0, 256, (side, side, 3)).astype(np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def test_nothing_asked_for_is_nothing_done() -> None:
    view = picture()
    assert np.array_equal(pixels(distort(view, mk.Distortion(**NOTHING), random())), pixels(view))
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "jitter": 1.0}
    changed = distort(view, mk.Distortion(**{**NOTHING, **still}), random())
    assert np.abs(pixels(changed) - pixels(view)).max() <= 8, "to HSV and back loses little"


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_part_of_the_jitter_changes_what_it_is_called(name: str) -> None:
    amounts = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    amounts[name] = 0.5 if name == "hue" else 0.8
    config = mk.Distortion(**{**NOTHING, **amounts, "jitter": 1.0})
    view = Image.fromarray(np.tile(np.array([[[150, 90, 60]]], dtype=np.uint8), (8, 8, 1)))
    view.paste((100, 140, 120), (0, 0, 4, 8))
    turns, means, spreads, tones = [], [], [], []
    for seed in range(20):
        changed = pixels(distort(view, config, random(seed)))
        red, green, blue = changed[0, 7] / 255
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        turns.append(hue)
        tones.append(saturation)
        means.append(changed.mean())
        spreads.append(changed.mean(axis=2).std())
        del value
    hue, saturation, _ = colorsys.rgb_to_hsv(150 / 255, 90 / 255, 60 / 255)
    if name == "hue":
        assert np.ptp(turns) > 0.3 and np.allclose(tones, saturation, atol=0.05)
    else:
        assert np.allclose([turn for turn, tone in zip(turns, tones, strict=True) if tone > 0.2], hue, atol=0.06)
    assert (np.ptp(means) > 60) == (name == "brightness")
    assert name != "contrast" or np.ptp(spreads) > 3
    assert name != "saturation" or np.ptp(tones) > 0.4


def test_grey_has_no_colour_and_blur_is_pillows() -> None:
    grey = pixels(distort(picture(), mk.Distortion(**{**NOTHING, "grey": 1.0}), random()))
    assert np.array_equal(grey[..., 0], grey[..., 1]) and np.array_equal(grey[..., 1], grey[..., 2])
    blurred = distort(picture(), mk.Distortion(**{**NOTHING, "blur": 1.0}, sigma=(1.5, 1.5)), random())
    assert np.array_equal(pixels(blurred), pixels(picture().filter(ImageFilter.GaussianBlur(1.5))))


def test_probabilities_are_kept() -> None:
    config = mk.Distortion(jitter=0.0, grey=0.2, blur=0.0)
    greys = sum(
        np.array_equal(view[..., 0], view[..., 1])
        for seed in range(600)
        for view in [pixels(distort(picture(side=4), config, random(seed)))]
    )
    assert 0.14 < greys / 600 < 0.26


def test_grey_images_take_part_and_others_are_refused() -> None:
    view = distort(picture().convert("L"), mk.Distortion(jitter=1.0), random())
    assert view.mode == "L" and not np.array_equal(pixels(view), pixels(picture().convert("L")))
    with pytest.raises(ValueError, match="works on grey and RGB images, not on RGBA"):
        distort(picture().convert("RGBA"), mk.Distortion(), random())


def test_draws_follow_seed_epoch_image_and_view() -> None:
    augment = mk.Augment(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, views=2, distortion=mk.Distortion(jitter=1.0))
    digits = mk.Digits((16, 16), 3, augment=augment)
    one, again, other = (digits.sample(3, epoch, seed=0) for epoch in (1, 1, 2))
    assert np.array_equal(one.views[0], again.views[0])
    assert not np.array_equal(one.views[0], one.views[1]) and not np.array_equal(one.views[0], other.views[0])
    plain = mk.Digits((16, 16), 3, augment=augment.model_copy(update={"distortion": None}))
    assert np.array_equal(digits.still(3).views[0], plain.still(3).views[0]), "evaluation views are not changed"


@pytest.mark.parametrize(("value", "words"), [({"sigma": [2, 1]}, "must not exceed"), ({"hue": 0.7}, "0.5")])
def test_what_cannot_be_is_a_line(value: dict[str, Any], words: str) -> None:
    with pytest.raises(mk.RecipeError) as caught:
        mk.Recipe.load("digits", [f"data.augment.distortion={json.dumps(value)}"])
    assert any(words in problem and "distortion" in problem for problem in caught.value.problems)
