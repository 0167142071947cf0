"""RandAugment (Cubuk et al., 2020), drawn anew for each image; the increasing form that the paper's fine-tuning uses.

Paper: supplement, Table 12, "RandAug (9, 0.5)". Every operation gets stronger with its level, from 0 to 10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from mage_kit.base.fields import Fraction, NonNegativeFloat, Positive
from mage_kit.base.signature import Strict

HIGHEST = 10.0
_TURN = 30.0  # degrees
_SHEAR = 0.3  # pixels along one axis for one along the other
_SHIFT = 0.45  # of the side
_ENHANCE = 0.9  # change of the factor
_ADD = 110  # of 255
_DARK = 128  # darker pixels get lighter

Level = Annotated[float, Field(ge=0.0, le=HIGHEST)]


class RandAugment(Strict):
    """Some operations an image, each drawn with replacement, each carried out with a probability."""

    operations: Positive = Field(2, description="Operations drawn for an image.")
    magnitude: Level = Field(9.0, description="Mean level of an operation, from 0 to 10.")
    deviation: NonNegativeFloat = Field(0.5, description="Standard deviation of the level.")
    probability: Fraction = Field(0.5, description="That a drawn operation is carried out.")


@dataclass(frozen=True)
class DrawnOperation:
    """An operation for one image.

    Args:
        name: Of `OPERATIONS`.
        level: From 0 to 10.
        backwards: The other way, where an operation has two.
    """

    name: str
    level: float
    backwards: bool


def draw_operations(config: RandAugment, random: np.random.Generator) -> list[DrawnOperation]:
    """Draw the operations of an image.

    Args:
        config: How many, how strong.
        random: Source of the draws; four an operation, whether it is carried out or not.
    """
    names, operations = list(OPERATIONS), []
    for _ in range(config.operations):
        place, chance, side = random.random(3)
        level = min(HIGHEST, max(0.0, config.magnitude + config.deviation * random.standard_normal()))
        if chance < config.probability:
            operations.append(DrawnOperation(names[int(place * len(names))], level, bool(side < 0.5)))
    return operations


def randaugment(image: Image.Image, config: RandAugment, random: np.random.Generator) -> Image.Image:
    """Return an image with operations drawn for it carried out.

    Args:
        image: 8 bits, grey or RGB, at its final size.
        config: How many, how strong.
        random: Source of the draws.

    Raises:
        ValueError: If the image has another number of channels.
    """
    if image.mode not in ("L", "RGB"):
        raise ValueError(f"data.augment.randaugment: works on grey and RGB images, not on {image.mode}; must be null")
    for operation in draw_operations(config, random):
        image = OPERATIONS[operation.name](image, operation.level / HIGHEST, operation.backwards)
    return image


def _with_sign(value: float, backwards: bool) -> float:
    return -value if backwards else value


def _warp(image: Image.Image, matrix: tuple[float, float, float, float, float, float]) -> Image.Image:
    grey = 128 if image.mode == "L" else (128, 128, 128)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=grey)


def _rotate(image: Image.Image, share: float, backwards: bool) -> Image.Image:
    grey = 128 if image.mode == "L" else (128, 128, 128)
    return image.rotate(_with_sign(_TURN * share, backwards), Image.Resampling.BICUBIC, fillcolor=grey)


def _posterize(image: Image.Image, share: float, _: bool) -> Image.Image:
    return ImageOps.posterize(image, 4 - int(4 * share))


def _solarize(image: Image.Image, share: float, _: bool) -> Image.Image:
    return ImageOps.solarize(image, 256 - min(256, int(256 * share)))


def _solarize_add(image: Image.Image, share: float, _: bool) -> Image.Image:
    amount = int(_ADD * share)
    return image.point([min(255, value + amount) if value < _DARK else value for value in range(256)] * len(image.mode))


def _enhancer(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def enhance(image: Image.Image, share: float, backwards: bool) -> Image.Image:
        return kind(image).enhance(max(0.1, 1 + _with_sign(_ENHANCE * share, backwards)))

    return enhance


def _shear_x(image: Image.Image, share: float, backwards: bool) -> Image.Image:
    return _warp(image, (1, _with_sign(_SHEAR * share, backwards), 0, 0, 1, 0))


def _shear_y(image: Image.Image, share: float, backwards: bool) -> Image.Image:
    return _warp(image, (1, 0, 0, _with_sign(_SHEAR * share, backwards), 1, 0))


def _shift_x(image: Image.Image, share: float, backwards: bool) -> Image.Image:
    return _warp(image, (1, 0, _with_sign(_SHIFT * share, backwards) * image.width, 0, 1, 0))


def _shift_y(image: Image.Image, share: float, backwards: bool) -> Image.Image:
    return _warp(image, (1, 0, 0, 0, 1, _with_sign(_SHIFT * share, backwards) * image.height))


Operation = Callable[[Image.Image, float, bool], Image.Image]
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, _share, _backwards: ImageOps.autocontrast(image),
    "equalize": lambda image, _share, _backwards: ImageOps.equalize(image),
    "invert": lambda image, _share, _backwards: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _enhancer(ImageEnhance.Color),
    "contrast": _enhancer(ImageEnhance.Contrast),
    "brightness": _enhancer(ImageEnhance.Brightness),
    "sharpness": _enhancer(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "shift_x": _shift_x,
    "shift_y": _shift_y,
}
