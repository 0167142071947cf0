"""Images to arrays: random resized crop and flip for training, short side and centre crop for evaluation.

Augmentation follows (seed, epoch, sample, view) alone. Pillow does crop and resize in one call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from mage_kit.base.fields import Fraction
from mage_kit.base.signature import Strict
from mage_kit.images.distortion import Distortion
from mage_kit.images.randaugment import RandAugment

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Aspect = Annotated[float, Field(gt=0.0, le=10.0)]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Augment(Strict):
    """Random resized crop and horizontal flip. Paper: area (0.2, 1), weak (0.8, 1), flip 0.5; section 4 and Table 4."""

    area: tuple[Share, Share] = Field((0.2, 1.0), description="Smallest and largest share of the image's area kept.")
    aspect: tuple[Aspect, Aspect] = Field(
        (3 / 4, 4 / 3), description="Smallest and largest width / height of the crop."
    )
    flip: Fraction = Field(0.5, description="Probability of a horizontal flip.")
    views: Literal[1, 2] = Field(1, description="Views of each image; MAGE-C contrasts two.")
    filter: Literal["bilinear", "bicubic"] = Field("bilinear", description="Resampling filter.")
    randaugment: RandAugment | None = Field(None, description="Further operations, drawn for each view; null: none.")
    distortion: Distortion | None = Field(None, description="Colour jitter, grey and blur of each view; null: none.")
    centre: Share = Field(1.0, description="Share of the largest centred box that evaluation views show.")

    @model_validator(mode="after")
    def _check_order(self) -> Augment:
        for name, (low, high) in (("area", self.area), ("aspect", self.aspect)):
            if low > high:
                raise ValueError(f"{name}: ({low}, {high}), the first must not exceed the second")
        return self


@dataclass(frozen=True)
class Crop:
    """What one view shows of an image.

    Args:
        box: Left, top, right, bottom as shares of width and height, in [0, 1].
        flip: Whether it is mirrored.
    """

    box: tuple[float, float, float, float]
    flip: bool

    def least(self, size: tuple[int, int]) -> tuple[float, float]:
        """Return the smallest (width, height) of the whole image from which the view loses nothing to the eye.

        Args:
            size: Height and width of the view, in pixels; twice that is kept, as Pillow's reducing_gap does.
        """
        left, top, right, bottom = self.box
        return 2.0 * size[1] / max(right - left, 1e-6), 2.0 * size[0] / max(bottom - top, 1e-6)


def random_crop(size: tuple[int, int], augment: Augment, random: np.random.Generator) -> Crop:
    """Draw a random box of the given area and aspect, and whether it is flipped.

    Args:
        size: Width and height of the image.
        augment: Ranges.
        random: Source of the draws; always six, so that later draws do not depend on the image.
    """
    draws = random.random(6)
    width, height = size
    target = width * height * (augment.area[0] + draws[0] * (augment.area[1] - augment.area[0]))
    low, high = (math.log(value) for value in augment.aspect)
    aspect = math.exp(low + draws[1] * (high - low))
    crop_width, crop_height = min(math.sqrt(target * aspect), width), min(math.sqrt(target / aspect), height)
    left, top = draws[2] * (width - crop_width), draws[3] * (height - crop_height)
    box = (left / width, top / height, (left + crop_width) / width, (top + crop_height) / height)
    return Crop(box, bool(draws[4] < augment.flip))


def cut(image: Image.Image, crop: Crop, size: tuple[int, int], filter: Literal["bilinear", "bicubic"]) -> Image.Image:
    """Return a view of an image.

    Args:
        image: Upright; may be smaller than the one that the crop was drawn for.
        crop: What to show.
        size: Height and width of the result, in pixels.
        filter: Resampling filter.
    """
    width, height = image.size
    left, top, right, bottom = crop.box
    box = (left * width, top * height, min(right, 1.0) * width, min(bottom, 1.0) * height)
    view = image.resize((size[1], size[0]), _FILTERS[filter], box=box, reducing_gap=2.0)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else view


def centre_view(
    image: Image.Image,
    size: tuple[int, int],
    filter: Literal["bilinear", "bicubic"] = "bicubic",
    share: float = 1.0,
) -> Image.Image:
    """Cut the largest centred box of the target's shape, or a share of its sides, and resize it: the evaluation view.

    A share of 256 / 292 is "short side to 292, centre 256" in one step.
    """
    width, height = image.size
    scale = min(width / size[1], height / size[0]) * share
    box_width, box_height = scale * size[1], scale * size[0]
    left, top = (width - box_width) / 2, (height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return image.resize((size[1], size[0]), _FILTERS[filter], box=box, reducing_gap=2.0)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return (C, H, W) uint8."""
    array = np.array(image, dtype=np.uint8)  # a copy: Pillow lends its own memory read-only
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
