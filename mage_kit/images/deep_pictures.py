"""Pictures decoded to eight bits a value, whatever they are stored in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from mage_kit.images.deep_colour import colour_levels, has_lower_bytes, lower_bytes
from mage_kit.images.pixel_levels import DEEP, Depth, Remark, dark_remark, depth_of, grey_levels

_DEPTH = "_mage_kit_depth"  # on the picture: its depth, and the file where its lower bits can be read


def look(image: Any) -> tuple[Depth | None, Path | BinaryIO | None]:
    """Return how a picture is stored; told from its header, before anything decodes it, and remembered.

    Args:
        image: As Pillow opens it.

    Returns:
        Its depth, None for eight bits; and its file, by path or open, if the lower bits of its colours can be read
        there: decoding may close the picture's own.
    """
    if _DEPTH not in image.__dict__:
        depth, file = depth_of(image), None
        if depth is not None and depth.is_colour and has_lower_bytes(image):
            file = Path(os.fsdecode(image.filename)) if getattr(image, "filename", "") else image.fp
        image.__dict__[_DEPTH] = (depth, file)
    known: tuple[Depth | None, Path | BinaryIO | None] = image.__dict__[_DEPTH]
    return known


def decode(image: Image.Image, name: str, levels: int | None) -> tuple[Image.Image, list[Remark]]:
    """Decode an opened picture.

    Args:
        image: As from `open_image`, or decoded already.
        name: Of the file.
        levels: Of a picture of more than eight bits, from black to white; None for those of its type.

    Returns:
        The picture in a mode of eight bits, and what to know of it: that it is nearly black.

    Raises:
        ValueError: If nobody says what is white, or a value lies above it.
    """
    depth, file = look(image)
    image.load()
    if depth is None:
        return image, []
    if not depth.is_colour:
        pixels, largest, top = grey_levels(np.asarray(image), depth, levels)
        return Image.fromarray(pixels), dark_remark(name, largest, top) if levels is None else []
    lower = None
    if levels not in (None, depth.levels):
        if file is None:
            rule = "data.levels must be null: store them over the whole range, or in eight bits"
            raise ValueError(f"{depth.words} colours, of which only the upper eight bits can be read; {rule}")
        lower = lower_bytes(file)
    picture, largest = colour_levels(image, lower, levels)
    return picture, dark_remark(name, largest, DEEP, has_levels=file is not None) if levels is None else []
