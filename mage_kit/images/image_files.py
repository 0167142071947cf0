"""Image files: judged by their header, decoded no larger than needed, upright, in eight bits.

A file that gives no usable image raises BrokenImageError, whatever is wrong with it: which exceptions a decoder
raises on a damaged file is nowhere promised.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mage_kit.base.errors import BrokenImageError
from mage_kit.base.manifest import FileWarning
from mage_kit.images.deep_pictures import decode, look
from mage_kit.images.one_picture import check_one
from mage_kit.images.pixel_levels import Remark

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif",
        ".jp2", ".tga",
    }
)  # fmt: skip
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "TGA")
"""Decoders that ever see a file, whatever its name says: others run foreign programs, as PostScript's does."""
MAX_PIXELS = 89_478_485  # decoded at once: a quarter of a gibibyte in RGB; Pillow warns above it
EXTREME = 50  # longer side over the shorter: a strip, of which no crop shows anything
_START = 16  # bytes by which formats are told apart
_REASON = 200  # letters of a decoder's message that are kept
_LYING = {5, 6, 7, 8}  # EXIF orientations that swap the sides
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def open_image(file: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """Open an image file; only its header is read.

    Args:
        file: Path or open file.
        name: For errors; None for the path.

    Raises:
        BrokenImageError: If it is no file of one of FORMATS, or its header promises more than 2 x MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_decoders())
            look(image)
            return image
    except Image.DecompressionBombError:
        raise BrokenImageError(name or str(file), f"too large, must be at most {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        other = _other_format(file)
        words = f"a {other or 'damaged or unknown'} file; read are {', '.join(_decoders())}"
        raise BrokenImageError(name or str(file), words) from None
    except Exception as error:  # decoders raise what they like: see above
        raise image_error(name or str(file), error) from None


@functools.cache
def _decoders() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _other_format(file: Path | BinaryIO) -> str | None:
    """The format that a file's first bytes are of, where it is one that is not read; nothing is decoded."""
    try:
        if isinstance(file, Path):
            with file.open("rb") as raw:
                start = raw.read(_START)
        else:
            file.seek(0)
            start = file.read(_START)
    except OSError:
        return None
    for name, (_, accepts) in Image.OPEN.items():
        with contextlib.suppress(Exception):  # made for files of their own alone
            if name not in FORMATS and accepts is not None and accepts(start):
                return name
    return None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) as a viewer shows the image: with the EXIF orientation applied; nothing is decoded."""
    width, height = image.size
    return (height, width) if _orientation(image) in _LYING else (width, height)


def load_image(
    image: Image.Image,
    name: str,
    channels: int,
    least: tuple[int, int] | None = None,
    *,
    levels: int | None = None,
    remarks: list[Remark] | None = None,
) -> Image.Image:
    """Decode an opened image.

    Args:
        image: As from `open_image`, or decoded already.
        name: Of the file, for errors.
        channels: 1 grey, 3 RGB, 4 RGBA. Transparent places turn white where there is no alpha channel.
        least: Smallest (width, height), upright, that will do: a JPEG is then decoded at a half, a quarter or an
            eighth of its size, which costs as much less.
        levels: Of a picture of more than eight bits, from black to white; None for those of its type.
        remarks: What to know of the image is added here; None warns of it.

    Returns:
        The image, upright, at its own size or a reduced one.

    Raises:
        BrokenImageError: If it cannot be decoded, is larger than MAX_PIXELS even so, is a strip, or would lose its
            meaning: several pages, bands that are neither colours nor alpha, deep values of which nobody says what is
            white, or that lie above it.
    """
    orientation = _orientation(image)
    lying = orientation in _LYING
    try:
        width, height = image.size
        if min(width, height) < 1 or max(width, height) > EXTREME * min(width, height):
            raise ValueError(f"{width} x {height} pixels, sides may differ by a factor of {EXTREME} at most")
        if least is not None:
            image.draft(None, (least[1], least[0]) if lying else least)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels, must be at most {MAX_PIXELS:,}")
        to_know = check_one(image, name)
        pixels, more = decode(image, name, levels)
        if pixels is not image:  # made of its values alone
            pixels.getexif()[ExifTags.Base.Orientation] = orientation
        upright = ImageOps.exif_transpose(pixels) or pixels
        result = to_channels(upright, channels)
    except Exception as error:  # decoders raise what they like: see above
        raise image_error(name, error) from None
    _pass_on([*to_know, *more], remarks)
    return result


def _pass_on(new: list[Remark], remarks: list[Remark] | None) -> None:
    if remarks is not None:
        remarks += new
    else:
        for _, text in new:
            warnings.warn(text, FileWarning, stacklevel=3)


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Return an image of 1 (grey), 3 (RGB) or 4 (RGBA) channels; without alpha, what is transparent turns white."""
    mode = _MODES[channels]
    if image.mode == mode:
        return image
    if channels != 4 and (image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def image_error(name: str, error: Exception) -> BrokenImageError:
    """Return the error for a file, with what the decoder said in one short line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return BrokenImageError(name, reason[:_REASON])


def _orientation(image: Image.Image) -> int:
    try:
        look(image)  # of some formats reading this decodes the pixels
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
