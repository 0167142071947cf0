"""Image files from strangers: refused in words, or a picture; never a decoder that the suffix does not promise."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.images.image_files import load_image, open_image
from mage_kit.images.transforms import Augment
from tests.fuzz.judge import outcome
from tests.fuzz.mutations import mutate_bytes

FORMATS = (
    ("png", "RGB"), ("png", "L"), ("png", "P"), ("png", "RGBA"), ("png", "I;16"), ("png", "1"), ("jpg", "RGB"),
    ("jpg", "L"), ("jpg", "CMYK"), ("bmp", "RGB"), ("gif", "P"), ("webp", "RGB"), ("webp", "RGBA"), ("tif", "RGB"),
    ("tif", "F"), ("tif", "I;16"), ("ppm", "RGB"), ("pgm", "L"),
)  # fmt: skip
NAMES = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}


@pytest.fixture(scope="module")
def originals() -> list[tuple[str, bytes]]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    files = []
    for suffix, mode in FORMATS:
        if mode == "I;16":
            picture = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 256)
        else:
            picture = Image.fromarray(noise).convert("L" if mode == "F" else mode).convert(mode)
        file = io.BytesIO()
        picture.save(file, format=NAMES.get(suffix, suffix.upper()))
        files.append((suffix, file.getvalue()))
    return files


def try_case(number: int, originals: list[tuple[str, bytes]], folder: Path, model: mk.Mage) -> None:
    draw = random.Random(f"image-{number}")
    suffix, data = draw.choice(originals)
    for _ in range(draw.choice((1, 1, 2, 5))):
        data = mutate_bytes(data, draw)
    if draw.random() < 0.2:
        suffix = draw.choice(FORMATS)[0]
    file = folder / f"case.{suffix}"
    file.write_bytes(data)
    channels = draw.choice((1, 3, 4))

    def read() -> Image.Image:
        with open_image(file) as image:
            return load_image(image, file.name, channels)

    picture = outcome((number, suffix, len(data)), read)
    if isinstance(picture, Image.Image):
        assert len(picture.getbands()) == channels and picture.size > (0, 0)
        if number % 10 == 0:
            outcome((number, "edit"), lambda: mk.reconstruct(model, picture, 0.5, steps=1))


def test_some(originals: list[tuple[str, bytes]], tmp_path: Path, tiny: mk.Mage) -> None:
    for number in range(150):
        try_case(number, originals, tmp_path, tiny)


@pytest.mark.slow
def test_a_thousand(originals: list[tuple[str, bytes]], tmp_path: Path, tiny: mk.Mage) -> None:
    for number in range(150, 1150):
        try_case(number, originals, tmp_path, tiny)


def test_a_folder_of_them(originals: list[tuple[str, bytes]], tmp_path: Path) -> None:
    """Half of a data set hostile: named and counted, or passed over where the recipe allows it."""
    draw = random.Random(0)
    for number in range(40):
        suffix, data = originals[number % 3]
        (tmp_path / f"{number:02d}.{suffix}").write_bytes(mutate_bytes(data, draw) if number % 2 else data)
    broken = 0
    images = mk.ImageFolder((16, 16), 3, path=str(tmp_path), augment=Augment(filter="bicubic"), max_broken=1.0)
    for index in range(len(images)):
        result = outcome(index, lambda index=index: images.sample(index, 0, 0))
        broken += isinstance(result, Exception)
    assert broken, "some are damaged for sure"
