"""A folder of images: class sub-folders, or flat."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import Fraction
from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.datasets.folder_listing import FolderListing
from mage_kit.datasets.held_out import Part, is_in_part, name_share
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.datasets.passed_over import check_lost, kinds_of
from mage_kit.images.image_files import SUFFIXES, open_image
from mage_kit.images.pixel_levels import Levels
from mage_kit.images.transforms import Augment

_READ_WHOLE = 256  # files whose bytes are part of the data's identity: all of a small folder, a sample of a large one


@DATASETS.register("image_folder")
class ImageFolder(Dataset):
    """Images of a folder. Sub-folders are classes, in the order of their names; without any, there are no labels.

    Args:
        path: The folder; required before data is read, may be null in a recipe that is only checked.
        augment: How training views are made.
        max_broken: Largest share of the images that may turn out broken in training; each is listed and passed over.
        levels: Levels of a deep picture from black to white, as 4096 for 12 bits; null: those of the file's type.
        part: "all"; or "held_out", about a share `held_out` of the files, and "training", the others. The side follows
            from a file's name alone, so that files that come later move none.
        held_out: That share.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        channels: int,
        *,
        path: str | None = None,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
        max_broken: Fraction = 0.01,
        levels: Levels | None = None,
        part: Part = "all",
        held_out: Fraction = 0.1,
    ) -> None:
        super().__init__(image_size, channels, augment)
        self.path, self.max_broken, self.levels = path, max_broken, levels
        self.part, self.held_out = part, held_out
        if path is None:
            raise MageKitError("path: null, must name a folder of images (--set data.path=DIR)")
        self._root = root = Path(path)
        if not root.is_dir():
            raise MageKitError(f"path: '{path}', must be a folder")
        listing = FolderListing(root)
        self.classes = listing.classes
        self.passed_over = listing.passed_over
        if not listing.names:
            raise MageKitError(f"path: '{path}', holds no image ({', '.join(sorted(SUFFIXES))})")
        check_lost(path, kinds_of(listing.lost()), len(listing.names), max_broken)
        keep = [place for place, name in enumerate(listing.names) if self._is_in_part(name)]
        if not keep:
            raise MageKitError(f"part: '{part}', holds none of the {len(listing.names)} images of '{path}'")
        self._names = PackedNames(listing.names[place] for place in keep)
        self._labels = np.array([listing.labels[place] for place in keep] if listing.classes else [], dtype=np.int64)

    def _is_in_part(self, name: str) -> bool:
        return is_in_part(self.part, name_share(name) < self.held_out)

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
