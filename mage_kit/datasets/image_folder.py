"""A folder of images: class sub-folders, or flat."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.errors import MageKitError
from mage_kit.transforms import Augment

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
_READ_WHOLE = 256  # files whose bytes are part of the data's identity: all of a small folder, a sample of a large one


@DATASETS.register("image_folder")
class ImageFolder(Dataset):
    """Images of a folder. Sub-folders are classes, in the order of their names; without any, there are no labels.

    Args:
        path: The folder; required before data is read, may be null in a recipe that is only checked.
        augment: How training views are made.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        *,
        path: str | None = None,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(image_size, channels, augment)
        self.path = path
        if path is None:
            raise MageKitError("path: null, must name a folder of images (--set data.path=DIR)")
        self._root = root = Path(path)
        if not root.is_dir():
            raise MageKitError(f"path: '{path}', must be a folder")
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        flat = _images(root)
        if folders and flat:
            raise MageKitError(f"path: '{path}', holds both images and sub-folders; use one or the other")
        self.classes = tuple(folders)
        self._items = [(file, None) for file in flat] + [
            (file, number) for number, folder in enumerate(folders) for file in _images(root / folder, deep=True)
        ]
        if not self._items:
            raise MageKitError(f"path: '{path}', holds no image ({', '.join(sorted(SUFFIXES))})")

    def __len__(self) -> int:
        """Return the number of image files."""
        return len(self._items)

    def image(self, index: int) -> Image.Image:
        """Decode the file; see `open_image`.

        Raises:
            MageKitError: If the file cannot be decoded; names the file.
        """
        return open_image(self._items[index][0])

    def label(self, index: int) -> int | None:
        """Return the number of the file's class folder, or None in a flat folder."""
        return self._items[index][1]

    def identity(self) -> dict[str, object]:
        """Return count and classes; hashed: all relative paths and sizes, and the bytes of some files."""
        digest = hashlib.sha256()
        for file, _ in self._items:
            digest.update(f"{file.relative_to(self._root).as_posix()}\0{file.stat().st_size}\n".encode())
        for file, _ in self._items[:: max(1, len(self._items) // _READ_WHOLE)]:
            digest.update(file.read_bytes())
        return {**super().identity(), "files_sha256": digest.hexdigest()}


def open_image(file: Path) -> Image.Image:
    """Decode an image file; 16-bit grey is brought to 8 bits, palettes to colours.

    Raises:
        MageKitError: If it cannot be decoded; names the file.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            if opened.mode.startswith("I;16") or opened.mode == "I":
                return opened.convert("I").point(lambda value: value / 257).convert("L")
            if opened.mode == "P":
                return opened.convert("RGBA" if "transparency" in opened.info else "RGB")
            return opened.copy()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise MageKitError(f"image: '{file}', cannot be decoded ({error})") from None


def _images(folder: Path, deep: bool = False) -> list[Path]:
    """Image files of a folder, sorted by path so that indices mean the same everywhere."""
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
