"""Files that hold more than one picture, or bands that are no colours: what would be lost is refused.

Of an animation the first frame is taken, and a remark says so: what a still picture of it is, everybody agrees on.
"""

from __future__ import annotations

import contextlib
from typing import Any

from PIL import Image

from mage_kit.images.pixel_levels import Remark, header_of

_ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
_KIND, _PHOTOMETRIC, _SAMPLES, _EXTRA = 254, 262, 277, 338  # tags of a TIFF file
_BESIDE = 0b101  # kinds of a page: a smaller copy of another, or a mask of it
_PAGES = 100  # that are looked at; each halving of a picture is one
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # bands by photometric interpretation
_ALPHA = frozenset({1, 2, 999})  # kinds of an extra band; 999 is what one program writes
_CHANNELS = b"cdef"  # box of a JPEG 2000 file that says which band is alpha


def check_one(image: Image.Image, name: str) -> list[Remark]:
    """Refuse what is more than a picture in grey or colour, with or without alpha; only headers are read.

    Args:
        image: As `open_image` opens it.
        name: Of the file.

    Returns:
        What to know of it: that it is animated.

    Raises:
        ValueError: If it has several pages, or bands that are neither colours nor declared as alpha.
    """
    if image.format == "TIFF":
        _check_bands(image)
        _check_pages(image)
    elif image.format == "JPEG2000" and image.mode == "RGBA" and _CHANNELS not in header_of(image):
        raise ValueError("4 bands, of which none is declared as alpha: which are the colours, nobody says")
    elif image.format in _ANIMATED and getattr(image, "is_animated", False):
        return [("frames", f"'{name}', animated: of such files the first frame is taken")]
    return []


def _check_bands(image: Any) -> None:
    tags = image.tag_v2
    samples, colours = tags.get(_SAMPLES, 1), _COLOURS.get(tags.get(_PHOTOMETRIC, 0), 3)
    extra = tags.get(_EXTRA, ())
    extra = extra if isinstance(extra, tuple) else (extra,)
    if samples > colours and not (samples == colours + 1 and extra and extra[0] in _ALPHA):
        rule = "beyond the colours only one that the file declares as alpha is read"
        raise ValueError(f"{samples} bands, of which {colours} are colours; {rule}")


def _check_pages(image: Any) -> None:
    """Refuse a second page of its own; a TIFF file may hold smaller copies of its picture beside it."""
    if not getattr(image, "is_animated", False):
        return
    own, here = 0, image.tell()
    with contextlib.suppress(EOFError):  # after the last page: asking for their number would read them all
        for number in range(_PAGES + 1):
            image.seek(number)
            own += not image.tag_v2.get(_KIND, 0) & _BESIDE
            if own > 1 or number == _PAGES:
                words = "several pages" if own > 1 else f"over {_PAGES} pages"
                raise ValueError(f"{words}, must be one: save each page as a file of its own")
    image.seek(here)
