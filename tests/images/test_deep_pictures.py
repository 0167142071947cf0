"""Deep pictures: 12 bits in 16, signed, 32 bits, colours; what is white is the type's word or the recipe's."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mage_kit.base.errors import BrokenImageError
from mage_kit.base.manifest import FileWarning
from mage_kit.images.image_files import load_image, open_image, upright_size

RAMP = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)  # 12 bits
WANTED = np.rint(RAMP * (255 / 4095)).astype(np.uint8)


def grey(array: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=form, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, form: int = 1, **tags: Any) -> bytes:
    """An uncompressed TIFF file of an array (H, W) or (H, W, C), written by hand: Pillow writes few kinds."""
    array = np.ascontiguousarray(array if array.ndim == 3 else array[..., None])
    height, width, bands = array.shape
    values = {
        256: width, 257: height, 258: (array.dtype.itemsize * 8,) * bands, 259: 1, 262: 1 if bands < 3 else 2,
        273: 0, 277: bands, 278: height, 279: array.nbytes, 284: 1, 339: (form,) * bands,
    }  # fmt: skip
    directory = ImageFileDirectory_v2()
    for tag, value in {**values, **{int(name[1:]): value for name, value in tags.items()}}.items():
        directory[tag] = value
    return b"II*\0" + struct.pack("<I", 8) + directory.tobytes(8) + array.tobytes()


def png16(array: np.ndarray) -> bytes:
    """A PNG file of 16 bits a colour (H, W, 3 or 4)."""
    height, width, bands = array.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def read(content: bytes, channels: int = 1, levels: int | None = None) -> np.ndarray:
    image = load_image(open_image(io.BytesIO(content), "it"), "it", channels, levels=levels)
    return np.asarray(image)


def test_twelve_bits_in_sixteen_are_warned_of_and_brought_to_white() -> None:
    for content in (grey(RAMP), grey(RAMP, "TIFF"), grey(RAMP, "TIFF", compression="tiff_deflate"), tiff(RAMP)):
        with pytest.warns(FileWarning, match=r"'it', the largest value is 4095 of 65535.*set data\.levels to 4096"):
            assert read(content).max() == 16
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read(content, levels=4096), WANTED)
            assert read(content, levels=1 << 16).max() == 16, "whoever says so means it"


def test_sixteen_bits_are_taken_at_their_word() -> None:
    full = (RAMP.astype(np.uint32) * 16).astype(np.uint16)
    for content in (grey(full), grey(full, "TIFF"), grey(full, "JPEG2000", irreversible=False), grey(full, "PPM")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read(content), np.rint(full * (255 / 65535)).astype(np.uint8))
        with pytest.raises(
            BrokenImageError, match=r"from 0 to 655.., must lie between 0 and 4095 with data\.levels 4096"
        ):
            read(content, levels=4096)


def test_what_nobody_says_the_white_of_is_refused() -> None:
    kinds = {
        "signed 16-bit": tiff(RAMP.astype(np.int16), 2),
        "signed 32-bit": tiff(RAMP.astype(np.int32), 2),
        "32-bit": tiff(RAMP.astype(np.uint32)),
        "floating-point": tiff(RAMP.astype(np.float32), 3),
    }
    for words, content in kinds.items():
        with pytest.raises(
            BrokenImageError, match=rf"{words} pixels, of which nobody says .*; data\.levels must say it"
        ):
            read(content)
        assert np.array_equal(read(content, levels=4096), WANTED), words
    assert np.array_equal(read(tiff((RAMP / 4095).astype(np.float32), 3), levels=2), WANTED)
    for odd in (np.array([[np.nan, 1], [0, 1]], dtype=np.float32), np.array([[-0.5, 1], [0, 1]], dtype=np.float32)):
        with pytest.raises(BrokenImageError, match="must lie between 0 and 1 with"):
            read(tiff(odd, 3), levels=2)
    with pytest.raises(BrokenImageError, match="signed 16-bit pixels from -1 to"):
        read(tiff(RAMP.astype(np.int16) - 1, 2), levels=4096)


def test_files_that_say_their_white() -> None:
    header = b"P5 16 16 %d\n"
    twelve = header % 4095 + RAMP.astype(">u2").tobytes()
    assert np.abs(read(twelve).astype(int) - WANTED).max() <= 1 and np.array_equal(read(twelve, levels=4096), WANTED)
    with pytest.warns(FileWarning, match="set data.levels to 4096"):
        read(header % 65535 + RAMP.astype(">u2").tobytes())
    negative = tiff((65535 - RAMP.astype(np.int64) * 16).astype(np.uint16), t262=0)
    assert np.abs(read(negative).astype(int) - WANTED).max() <= 1, "0 is white there"


def test_orientation_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(read(grey(RAMP, exif=exif), levels=4096), np.rot90(WANTED, -1))


@pytest.mark.parametrize("bands", [3, 4])
def test_colours_of_sixteen_bits(bands: int) -> None:
    """Pillow decodes the upper eight bits alone, of which twelve in sixteen leave four."""
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T, np.full_like(RAMP, 65535)][:bands], axis=-1)
    wanted = np.stack([WANTED, WANTED[::-1], WANTED.T, np.full_like(WANTED, 255)][:bands], axis=-1)
    extra = {"t338": (2,)} if bands == 4 else {}
    for content in (png16(colours), tiff(colours, **extra)):
        with pytest.warns(FileWarning, match=r"the largest value is 4095 of 65535.*set data\.levels to 4096"):
            assert read(content, bands)[..., 0].max() == 15
        assert np.array_equal(read(content, bands, levels=4096), wanted)
        with pytest.raises(BrokenImageError, match=r"colours up to 4095, must lie between 0 and 1023"):
            read(content, bands, levels=1024)
        assert np.array_equal(read(content, bands, levels=1 << 16)[..., 0], RAMP >> 8)


def test_colours_of_which_no_more_is_read() -> None:
    content = b"P6 16 16 65535\n" + np.stack([RAMP] * 3, axis=-1).astype(">u2").tobytes()
    with pytest.warns(FileWarning, match="if that is white, store it over the whole range"):
        read(content, 3)
    with pytest.raises(BrokenImageError, match=r"only the upper eight bits can be read; data\.levels must be null"):
        read(content, 3, levels=4096)


def test_eight_bits_know_no_levels() -> None:
    """One setting serves a folder of both."""
    flat = np.full((8, 8, 3), 77, dtype=np.uint8)
    for form in ("PNG", "TIFF", "BMP", "WEBP"):
        assert read(grey(flat, form, **({"lossless": True} if form == "WEBP" else {})), 3, levels=4096).max() == 77


class Counting(io.BytesIO):
    """An open file that counts the bytes which are read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(-1 if size is None else size)
        self.count += len(content)
        return content


@pytest.mark.parametrize("by_path", [False, True])
def test_a_look_at_colours_reads_the_header_alone(by_path: bool, tmp_path: Path) -> None:
    """What stands behind the pixels, as a text of 50 MB, is not read; nor are the lower bytes unless asked for."""
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    sound = png16(colours)
    text = b"teXt" + bytes(50_000_000)
    content = sound[:-12] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + sound[-12:]
    file: Any = tmp_path / "deep.png" if by_path else Counting(content)
    if by_path:
        file.write_bytes(content)
    tracemalloc.start()
    try:
        image = open_image(file, "it")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert by_path or file.count < 1 << 17
    upright_size(image)  # as data sets ask before they decode; of a PNG file it decodes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_image(image, "it", 3)
    assert by_path or file.count < 1.1 * len(content), "read once: nobody asked for levels"
    again = open_image(file, "it")
    upright_size(again)
    wanted = np.stack([WANTED, WANTED[::-1], WANTED.T], axis=-1)
    assert np.array_equal(np.asarray(load_image(again, "it", 3, levels=4096)), wanted)
