"""A folder of images: class sub-folders, or flat."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import Fraction
from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.images.image_files import SUFFIXES, open_image
from mage_kit.images.transforms import Augment

_READ_WHOLE = 256  # files whose bytes are part of the data's identity: all of a small folder, a sample of a large one


@DATASETS.register("image_folder")
class ImageFolder(Dataset):
    """Images of a folder. Sub-folders are classes, in the order of their names; without any, there are no labels.

    Args:
        path: The folder; required before data is read, may be null in a recipe that is only checked.
        augment: How training views are made.
        max_broken: Largest share of the images that may turn out broken in training; each is listed and passed over.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        *,
        path: str | None = None,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
        max_broken: Fraction = 0.01,
    ) -> None:
        super().__init__(image_size, channels, augment)
        self.path, self.max_broken = path, max_broken
        if path is None:
            raise MageKitError("path: null, must name a folder of images (--set data.path=DIR)")
        self._root = root = Path(path)
        if not root.is_dir():
            raise MageKitError(f"path: '{path}', must be a folder")
        listing = _Listing(root)
        self.classes = listing.classes
        self.passed_over = listing.passed_over
        if not listing.names:
            raise MageKitError(f"path: '{path}', holds no image ({', '.join(sorted(SUFFIXES))})")
        self._names, self._labels = PackedNames(listing.names), np.array(listing.labels, dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of image files."""
        return len(self._names)

    def image(self, index: int) -> Image.Image:
        """Open the file; its pixels are not decoded yet.

        Raises:
            BrokenImageError: If it is no image; names the file.
        """
        return open_image(self._root / self._names[index])

    def label(self, index: int) -> int | None:
        """Return the number of the file's class folder, or None in a flat folder."""
        return int(self._labels[index]) if self.classes else None

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self._root / self._names[index])

    def identity(self) -> dict[str, object]:
        """Return count and classes; hashed: all relative paths and sizes, and the bytes of some files."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            name = self._names[index]
            size = (self._root / name).stat().st_size
            digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        for index in range(0, len(self), max(1, len(self) // _READ_WHOLE)):
            digest.update((self._root / self._names[index]).read_bytes())
        return {**super().identity(), "files_sha256": digest.hexdigest()}


class _Listing:
    """What stands in a folder: names relative to it in sorted order, so that indices mean the same everywhere."""

    def __init__(self, root: Path) -> None:
        self.names: list[str] = []
        self.labels: list[int] = []
        self.passed_over: list[tuple[str, str]] = []
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
        folders = [entry.name for entry in entries if _is_class(entry)]
        flat = [(entry.name, _is_file(entry)) for entry in entries if not _is_class(entry)]
        images = [name for name, is_file in flat if self._judge(name, is_file, root)]
        if folders and images:
            raise MageKitError(f"path: '{root}', holds both images and sub-folders; use one or the other")
        self.classes = tuple(folders)
        self.names += images
        for number, folder in enumerate(folders):
            names = [name for name, is_file in sorted(_below(root, folder)) if self._judge(name, is_file, root)]
            self.names += names
            self.labels += [number] * len(names)

    def _judge(self, name: str, is_file: bool, root: Path) -> bool:
        """Return whether this may be an image file; else note why not."""
        if os.path.splitext(name)[1].lower() not in SUFFIXES:
            self.passed_over.append((str(root / name), "no image, by its suffix"))
        elif not is_file:
            self.passed_over.append((str(root / name), "no file: a folder, a broken link or a loop of links"))
        else:
            return True
        return False


def _is_class(entry: os.DirEntry[str]) -> bool:
    """Folders are classes, but for hidden ones, those that are named like an image, and links back up."""
    if entry.name.startswith(".") or Path(entry.name).suffix.lower() in SUFFIXES:
        return False
    try:
        here = Path(entry.path)
        return entry.is_dir() and not here.parent.resolve().is_relative_to(here.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file; for all but links the listing itself says so, without asking the disk for each."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _below(root: Path, folder: str) -> Iterator[tuple[str, bool]]:
    """Yield (name, is it a file) of everything below a folder that is no folder to walk into, relative to the root."""
    with os.scandir(root / folder) as entries:
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False) and os.path.splitext(name)[1].lower() not in SUFFIXES:
                yield from _below(root, name)
            else:
                yield name, _is_file(entry)
