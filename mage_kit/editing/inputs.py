"""Pictures and masks as people have them, in eight bits and in the model's channels.

Legend: C channels, H x W pixels.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image

from mage_kit.images.image_files import load_image, to_channels

ImageLike = Image.Image | NDArray[Any]
"""A PIL image, or an array (H, W) or (H, W, C): uint8, or floating in [0, 1]."""

_WHITE = 128  # from which grey on a mask's pixel is painted anew


def to_pixels(image: ImageLike, channels: int, name: str = "image") -> NDArray[np.uint8]:
    """Return a picture as uint8 (C, H, W).

    Args:
        image: The picture; EXIF orientation is applied, CMYK, palettes and 16 bits are converted.
        channels: 1 grey, 3 RGB, 4 RGBA; transparent places turn white where there is no alpha channel.
        name: For errors.

    Raises:
        ValueError: If it has several pages, is empty, of a strange shape or kind, or larger than this program opens.
    """
    if isinstance(image, str | os.PathLike):
        raise ValueError(f"{name}: '{os.fspath(image)}', a path, must be a picture: open it with PIL.Image.open")
    if not isinstance(image, Image.Image):
        return _array_pixels(_as_array(image, name), channels, name)
    pixels = np.asarray(load_image(image, str(getattr(image, "filename", "")) or name, channels))
    return _planes(pixels)


def to_mask(mask: ImageLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask as bool (H, W), True where the picture is painted anew.

    Args:
        mask: White where painted anew (128 of 255 or more); what is transparent is not. An array may be bool.
        size: Height and width of the picture.

    Raises:
        ValueError: If it is of another size, or nothing is masked.
    """
    array = None if isinstance(mask, Image.Image) else _as_array(mask, "mask")
    if array is not None and array.dtype == np.bool_ and array.squeeze().ndim == 2:
        white: NDArray[np.bool_] = array.reshape(array.shape[:2])
    else:
        red, green, blue, alpha = to_pixels(mask, 4, "mask").astype(np.float32)
        white = (0.299 * red + 0.587 * green + 0.114 * blue) * alpha / 255 >= _WHITE - 0.5
    if white.shape != size:
        height, width = white.shape
        raise ValueError(f"mask: {width} x {height} pixels, must be {size[1]} x {size[0]}, the size of the image")
    if not white.any():
        raise ValueError(
            "mask: nothing is masked, must be white (128 of 255 or more) where the image is painted anew; one of "
            "zeros and ones must be an array of bool, or be multiplied by 255"
        )
    return white


def to_picture(pixels_CHW: NDArray[np.uint8]) -> Image.Image:
    """Return uint8 pixels as a PIL image."""
    rows = rearrange(pixels_CHW, "c h w -> h w c")
    return Image.fromarray(np.ascontiguousarray(rows[:, :, 0] if rows.shape[2] == 1 else rows))


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C) -> (C, H, W), copied: a picture's own pixels are read-only."""
    return np.array(rearrange(pixels if pixels.ndim == 3 else pixels[..., None], "h w c -> c h w"), order="C")


def _as_array(value: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # numpy's and torch's, of a GPU's tensor, of bfloat16
        rule = "must be a PIL image or an array"
        raise ValueError(f"{name}: a {type(value).__name__} that is no array ({error}), {rule}") from None


def _array_pixels(array: NDArray[Any], channels: int, name: str) -> NDArray[np.uint8]:
    image_HWC = array[..., None] if array.ndim == 2 else array
    if image_HWC.ndim != 3 or image_HWC.shape[2] not in (1, 3, 4) or 0 in image_HWC.shape:
        raise ValueError(
            f"{name}: an array of shape {array.shape}, must be (H, W) or (H, W, C) with 1, 3 or 4 channels"
        )
    if np.issubdtype(image_HWC.dtype, np.floating):
        if not (np.isfinite(image_HWC).all() and image_HWC.min() >= 0 and image_HWC.max() <= 1):
            raise ValueError(f"{name}: floating values outside [0, 1], must lie in it (or be uint8)")
        image_HWC = np.rint(image_HWC * 255).astype(np.uint8)
    if image_HWC.dtype != np.uint8:
        raise ValueError(f"{name}: an array of {array.dtype}, must be uint8, or floating in [0, 1]")
    picture = to_channels(to_picture(np.ascontiguousarray(rearrange(image_HWC, "h w c -> c h w"))), channels)
    pixels = np.asarray(picture)
    return _planes(pixels)
