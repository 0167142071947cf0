"""Colour jitter, grey and blur: what contrastive training adds to crops (Chen et al., SimCLR, 2020, appendix A).

Published forms: SimCLR's is jitter (0.8, 0.8, 0.8, 0.2) with probability 0.8, grey 0.2, blur 0.5; MoCo v3's for vision
transformers is jitter (0.4, 0.4, 0.2, 0.1) with probability 0.8, grey 0.2, blur 1.0.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import Field, model_validator

from mage_kit.base.fields import Fraction
from mage_kit.base.signature import Strict

_DRAWS = 12
HueShift = Annotated[float, Field(ge=0.0, le=0.5)]
Sigma = Annotated[float, Field(gt=0.0, le=100.0)]


class Distortion(Strict):
    """What happens to each view after its crop; grey images know no saturation and no hue."""

    brightness: Fraction = Field(0.8, description="Largest change of the factor that pixels are multiplied by.")
    contrast: Fraction = Field(0.8, description="The same of the distance from the view's mean.")
    saturation: Fraction = Field(0.8, description="The same of the distance from grey.")
    hue: HueShift = Field(0.2, description="Largest turn of the hue, of a whole circle.")
    jitter: Fraction = Field(0.8, description="Probability of the four above, in an order drawn for each view.")
    grey: Fraction = Field(0.2, description="Probability of losing all colour.")
    blur: Fraction = Field(0.5, description="Probability of a Gaussian blur.")
    sigma: tuple[Sigma, Sigma] = Field((0.1, 2.0), description="Smallest and largest deviation of the blur, in pixels.")

    @model_validator(mode="after")
    def _check_order(self) -> Distortion:
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma: {self.sigma}, the first must not exceed the second")
        return self


def distort(view: Image.Image, config: Distortion, random: np.random.Generator) -> Image.Image:
    """Return a view, changed.

    Args:
        view: 8 bits, grey or RGB, at its final size.
        config: How much, how often.
        random: Source of the draws; always as many, so that later draws do not depend on earlier ones.

    Raises:
        ValueError: If the view has another number of channels.
    """
    if view.mode not in ("L", "RGB"):
        raise ValueError(f"data.augment.distortion: works on grey and RGB images, not on {view.mode}; must be null")
    chance, order, amount, (grey, blur, sigma) = np.split(random.random(_DRAWS), (1, 5, 9))
    if chance[0] < config.jitter:
        for place in np.argsort(order):
            view = _jitter(view, config, int(place), 2 * float(amount[place]) - 1)
    if grey < config.grey and view.mode == "RGB":
        view = view.convert("L").convert("RGB")
    if blur < config.blur:
        low, high = config.sigma
        view = view.filter(ImageFilter.GaussianBlur(low + float(sigma) * (high - low)))
    return view


def _jitter(view: Image.Image, config: Distortion, place: int, share: float) -> Image.Image:
    """One of the four; `share` in [-1, 1] of its largest change."""
    if place == 0:
        return ImageEnhance.Brightness(view).enhance(1 + share * config.brightness)
    if place == 1:
        return ImageEnhance.Contrast(view).enhance(1 + share * config.contrast)
    if view.mode == "L":
        return view
    if place == 2:
        return ImageEnhance.Color(view).enhance(1 + share * config.saturation)
    return _turn_hue(view, share * config.hue)


def _turn_hue(view: Image.Image, turn: float) -> Image.Image:
    """Turn the hue by a share of the circle, which Pillow has in 256 steps."""
    hue, saturation, value = view.convert("HSV").split()
    turned = (np.asarray(hue, dtype=np.int16) + round(turn * 256)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")
