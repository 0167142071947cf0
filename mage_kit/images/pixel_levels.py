"""Deep pictures in eight bits: which stored value is white, and what is refused because nobody can know.

Of sixteen bits many hold twelve, or ten: taken at their type's word such pictures are nearly black.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

Levels = Annotated[int, Field(ge=2, le=1 << 31)]
"""How many levels lie between black and white, both included."""
Remark = tuple[str, str]
"""A kind of thing to know of a picture, and a line that names the picture and says it."""

DEEP = 1 << 16  # levels of 16 bits
_DARK = 8  # the largest value of a picture that lies below this part of white tells of fewer bits
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of a TIFF file
_SIGNED = 2
_SIZE_MARKER, _PRECISION = b"\xff\x51", 40  # of a JPEG 2000 code stream, and where the first component's bits stand
_HEADER = 1 << 16  # bytes in which it begins


@dataclass(frozen=True)
class Depth:
    """How a picture of more than eight bits is stored.

    Args:
        words: For people, as "signed 16-bit".
        levels: Of its type; None where a type has no white.
        factor: What Pillow multiplies stored values by.
        is_negative: Whether 0 is white.
        is_colour: Whether Pillow decodes the upper eight bits alone.
    """

    words: str
    levels: int | None
    factor: float = 1.0
    is_negative: bool = False
    is_colour: bool = False


def depth_of(image: Image.Image) -> Depth | None:
    """Return how a picture of more than eight bits is stored; None for one of eight. Read from its header.

    Args:
        image: Opened, its pixels best not yet decoded: a decoded one says less.
    """
    single, tiles = image.mode in ("I", "F") or image.mode.startswith("I;16"), getattr(image, "tile", None) or ()
    if image.format == "TIFF":
        return _of_tiff(image, single)
    if image.format == "JPEG2000":
        return _of_jpeg2000(image, single)
    raw = tiles[0].args if tiles else ""
    if image.format == "PPM" and isinstance(raw, tuple) and image.mode != "F":
        most = int(raw[1])
        return Depth(f"up to {most}", most + 1, (DEEP - 1) / most, False, not single) if most > 255 else None
    if image.format in ("PNG", "PPM") and isinstance(raw, str) and ";16" in raw:
        return Depth("16-bit", DEEP, is_colour=not single)
    if not single:
        return None
    words = {"F": "floating-point", "I": "32-bit"}.get(image.mode, "16-bit")
    return Depth(words, None if image.mode in ("F", "I") else DEEP)


def _of_tiff(image: Any, single: bool) -> Depth | None:
    tags = image.tag_v2
    bits, form = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
    negative = tags.get(_PHOTOMETRIC) == 0
    if not single:
        return Depth(f"{bits}-bit", 1 << bits, is_colour=True) if bits > 8 else None
    if image.mode == "F":
        return Depth("floating-point", None, is_negative=negative)
    words = f"{'signed ' if form == _SIGNED else ''}{bits}-bit"
    return Depth(words, 1 << bits if image.mode.startswith("I;16") else None, is_negative=negative)


def _of_jpeg2000(image: Any, single: bool) -> Depth | None:
    """Pillow shifts what is deeper than eight bits to sixteen, or in colour down to eight."""
    start = header_of(image)
    place = start.find(_SIZE_MARKER)
    byte = start[place + _PRECISION] if 0 <= place < len(start) - _PRECISION else (15 if single else 7)
    bits, signed = (byte & 0x7F) + 1, byte >> 7
    if bits <= 8:
        return None
    return Depth(
        f"{'signed ' if signed else ''}{bits}-bit",
        None if signed else 1 << bits,
        float(1 << (16 - bits)),
        False,
        not single,
    )


def header_of(image: Any) -> bytes:
    """Return the first bytes of an opened picture's file; none where it is closed, or no file."""
    file = getattr(image, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    start: bytes = file.read(_HEADER)
    file.seek(place)
    return start


def grey_levels(values_HW: NDArray[Any], depth: Depth, levels: int | None) -> tuple[NDArray[np.uint8], float, int]:
    """Return stored values in eight bits, the largest of them, and how many levels were taken.

    Args:
        values_HW: As Pillow decodes them.
        depth: How they are stored.
        levels: From black to white; None for those of their type.

    Raises:
        ValueError: If nobody says what is white, or a value lies outside.
    """
    top = levels or depth.levels
    if top is None:
        raise ValueError(f"{depth.words} pixels, of which nobody says what is white; data.levels must say it")
    if depth.factor != 1.0:
        values_HW = np.rint(values_HW / depth.factor)
    low, high = values_HW.min(), values_HW.max()
    if not (low >= 0 and high <= top - 1):  # nor is NaN
        rule = f"must lie between 0 and {top - 1} with data.levels {top}"
        raise ValueError(f"{depth.words} pixels from {low:g} to {high:g}, {rule}")
    if depth.is_negative:
        values_HW = top - 1 - values_HW
    if values_HW.dtype.kind == "u" and top <= DEEP:
        table = np.rint(np.arange(top) * (255 / (top - 1))).astype(np.uint8)
        return table[values_HW], float(high), top
    return np.rint(values_HW.astype(np.float32) * np.float32(255 / (top - 1))).astype(np.uint8), float(high), top


def dark_remark(name: str, largest: float, top: int, *, has_levels: bool = True) -> list[Remark]:
    """Return what to know of a picture whose largest value is far below white; nothing where it is not, or 0.

    Args:
        name: Of the picture.
        largest: Of its values.
        top: Levels that were taken.
        has_levels: Whether other levels can be applied to such a file.
    """
    if not 0 < largest < top / _DARK:
        return []
    likely = 1 << max(8, int(largest).bit_length())
    rule = f"set data.levels to {likely} if that is white, or to {top} if it is meant to be dark"
    if not has_levels:
        rule = "if that is white, store it over the whole range, for of such files no more can be read"
    return [("levels", f"'{name}', the largest value is {largest:g} of {top - 1}, which is nearly black: {rule}")]
