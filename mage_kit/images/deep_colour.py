"""Colours of sixteen bits, of which Pillow decodes the upper eight: the lower ones by a second pass where it can.

The second pass reads the same bytes in the other order, so that the lower byte of each value stands where the upper
one did. Legend: H x W pixels, C channels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from mage_kit.images.pixel_levels import DEEP

_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_BYTES = 8  # bits that are decoded at once
_BOTH = {f"{bands};16{order}" for bands in ("RGB", "RGBA") for order in _OTHER}  # raw modes that Pillow reads both ways


def has_lower_bytes(image: Any) -> bool:
    """Return whether the lower bytes of an opened picture, its pixels not yet decoded, can be read."""
    tiles = getattr(image, "tile", ())
    return bool(tiles) and image.fp is not None and all(_raw_mode(tile) in _BOTH for tile in tiles)


def lower_bytes(file: Path | BinaryIO) -> Image.Image:
    """Decode the lower eight bits of each value.

    Args:
        file: One that has them, by path or open.
    """
    again: Any = Image.open(file, formats=("PNG", "TIFF"))
    again.tile = [_turned(tile) for tile in again.tile]
    again.load()
    picture: Image.Image = again
    return picture


def colour_levels(upper: Image.Image, lower: Image.Image | None, levels: int | None) -> tuple[Image.Image, float]:
    """Return a picture in eight bits, and the largest value of its colours, as far as it was read.

    Args:
        upper: The upper eight bits.
        lower: The lower ones; None takes the upper ones as they are.
        levels: From black to white; None for 65,536.

    Raises:
        ValueError: If a value lies above.
    """
    bands = [band for band in upper.getbands() if band != "A"]
    if lower is None or levels is None:
        extrema: Any = upper.getextrema()
        return upper, float((max(high for _, high in extrema[: len(bands)]) << _BYTES) | 0xFF)
    values_HWC = np.asarray(upper).astype(np.uint16) << _BYTES | np.asarray(lower)
    colours = values_HWC[..., : len(bands)]
    if colours.max() >= levels:
        raise ValueError(
            f"colours up to {colours.max()}, must lie between 0 and {levels - 1} with data.levels {levels}"
        )
    scaled = values_HWC.astype(np.float32) * np.float32(255 / (levels - 1))
    if len(bands) < len(upper.getbands()) and values_HWC[..., -1].max() >= levels:  # alpha over the whole range
        scaled[..., -1] = values_HWC[..., -1].astype(np.float32) * (255 / (DEEP - 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8), upper.mode), float(colours.max())


def _raw_mode(tile: Any) -> str:
    args = tile.args
    return str(args if isinstance(args, str) else args[0])


def _turned(tile: Any) -> Any:
    mode = _raw_mode(tile)
    other = mode[:-1] + _OTHER[mode[-1]]
    return tile._replace(args=other if isinstance(tile.args, str) else (other, *tile.args[1:]))
