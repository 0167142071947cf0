"""Images in tar files (the webdataset format), by index: shuffled truly, resumed at any place."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.fields import Fraction
from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.datasets.tar_index import NO_LABEL, TarIndex, tar_index
from mage_kit.images.image_files import image_error, open_image
from mage_kit.images.transforms import Augment

_OPEN_FILES = 64  # tar files that a process keeps open


@DATASETS.register("tar_shards")
class TarShards(Dataset):
    """Images of plain tar files; members of a sample share a name up to the first dot, its class number is in `.cls`.

    Headers are read once and the result kept in the cache folder ($XDG_CACHE_HOME or ~/.cache, mage_kit/tar_index).

    Args:
        path: Folder of .tar files, or one; required before data is read, may be null in a recipe that is only checked.
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
        self._tars = _tar_files(path)
        indices = [tar_index(tar) for tar in self._tars]
        self._ends = np.cumsum([len(index.names) for index in indices], dtype=np.int64)
        if not self._ends[-1]:
            raise MageKitError(f"path: '{path}', holds no image in {len(self._tars)} tar files")
        self.passed_over = [pair for index in indices for pair in index.passed_over]
        self._names = PackedNames(name for index in indices for name in index.names)
        self._offsets, self._sizes, self._labels = _concatenate(indices)
        self.classes = tuple(str(number) for number in range(int(self._labels.max()) + 1))
        self._handles: OrderedDict[tuple[int, int], int] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of images in all tar files."""
        return len(self._offsets)

    def image(self, index: int) -> Image.Image:
        """Open the image; its pixels are not decoded yet.

        Raises:
            BrokenImageError: If it is no image, or the tar file has changed.
        """
        tar = int(np.searchsorted(self._ends, index, side="right"))
        size = int(self._sizes[index])
        try:
            content = os.pread(self._handle(tar), size, int(self._offsets[index]))
        except OSError as error:
            raise image_error(self.name(index), error) from None
        if len(content) != size:
            raise BrokenImageError(self.name(index), f"{len(content)} of {size} bytes can be read")
        return open_image(BytesIO(content), self.name(index))

    def label(self, index: int) -> int | None:
        """Return the class number from the sample's `.cls` member, or None."""
        label = int(self._labels[index])
        return None if label == NO_LABEL else label

    def name(self, index: int) -> str:
        """Return the tar file's path and the member's name."""
        return f"{self._tars[int(np.searchsorted(self._ends, index, side='right'))]}/{self._names[index]}"

    def identity(self) -> dict[str, object]:
        """Return count and classes; hashed: names, sizes and labels of all members, file by file."""
        digest = hashlib.sha256()
        for tar, end in zip(self._tars, self._ends.tolist(), strict=True):
            digest.update(f"{tar.name}\0{end}\n".encode("utf-8", "surrogateescape"))
        for array in (*self._names.arrays("names").values(), self._sizes, self._labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return {**super().identity(), "members_sha256": digest.hexdigest()}

    def _handle(self, tar: int) -> int:
        """Return a file handle of this process: one that was inherited would go when the parent closes its own."""
        key = (os.getpid(), tar)
        if key not in self._handles:
            while len(self._handles) >= _OPEN_FILES:
                (owner, _), handle = self._handles.popitem(last=False)
                if owner == os.getpid():
                    os.close(handle)
            self._handles[key] = os.open(self._tars[tar], os.O_RDONLY)
        self._handles.move_to_end(key)
        return self._handles[key]


def _tar_files(path: str | None) -> list[Path]:
    if path is None:
        raise MageKitError("path: null, must name a folder of tar files (--set data.path=DIR)")
    place = Path(path)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise MageKitError(f"path: '{path}', must be a folder of tar files, or one")
    files = sorted(file for file in place.iterdir() if file.suffix.lower() == ".tar" and file.is_file())
    if not files:
        archive = next(
            (file.name for file in sorted(place.iterdir()) if ".tar." in file.name or file.suffix == ".tgz"), None
        )
        hint = f"; '{archive}' is compressed, which allows no access by place: unpack it" if archive else ""
        raise MageKitError(f"path: '{path}', holds no .tar file{hint}")
    return files


def _concatenate(indices: list[TarIndex]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.concatenate([index.offsets_I for index in indices]),
        np.concatenate([index.sizes_I for index in indices]),
        np.concatenate([index.labels_I for index in indices]),
    )
