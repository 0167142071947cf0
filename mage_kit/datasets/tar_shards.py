"""Images in tar files (the webdataset format), by index: shuffled truly, resumed at any place."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.fields import Fraction
from mage_kit.datasets.base import DATASETS, Dataset
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.datasets.remarks import tell
from mage_kit.datasets.shard_labels import read_labels
from mage_kit.datasets.shard_summary import check_pictures, check_rules, summary
from mage_kit.datasets.tar_files import tar_files
from mage_kit.datasets.tar_labels import NO_LABEL, NONE
from mage_kit.datasets.tar_samples import Keys, SampleRules
from mage_kit.images.image_files import MAX_PIXELS, image_error, open_image
from mage_kit.images.pixel_levels import Levels
from mage_kit.images.transforms import Augment

_OPEN_FILES = 64  # tar files that a process keeps open
_LARGEST = 4 * MAX_PIXELS  # bytes of a picture: what the largest that is decoded takes in RGBA, not compressed
Extensions = Annotated[tuple[str, ...], Field(min_length=1)]


@DATASETS.register("tar_shards")
class TarShards(Dataset):
    """Images of plain tar files in webdataset's format: members that share a key are one sample.

    Headers are read once and the result kept in the cache folder ($XDG_CACHE_HOME or ~/.cache, mage_kit/tar_index).

    Args:
        path: Folder of .tar files, or one; required before data is read, may be null in a recipe that is only checked.
        augment: How training views are made.
        max_broken: Largest share of the images that may turn out broken in training; each is listed and passed over.
        levels: Levels of a deep picture from black to white, as 4096 for 12 bits; null: those of the file's type.
        keys: Where the key of a member's name ends and its extension begins: at the first dot, or the last one.
        picture: Extensions of a sample's picture, the preferred one first; null: the only picture that there is.
        label_from: Extension of the members with labels, "json:KEY", "folder", "none"; null: cls, or what is evident.
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
        keys: Keys = "first_dot",
        picture: Extensions | None = None,
        label_from: str | None = None,
    ) -> None:
        super().__init__(image_size, channels, augment)
        self.path, self.max_broken, self.levels = path, max_broken, levels
        self.keys, self.picture, self.label_from = keys, picture, label_from
        check_rules(picture, label_from)
        self._tars, others = tar_files(path)
        preferred = None if picture is None else tuple(extension.lower() for extension in picture)
        labels = read_labels(self._tars, SampleRules(keys, preferred, NONE), label_from)
        indices = labels.indices
        check_pictures(str(path), indices, max_broken)
        if label_from not in (None, NONE) and not labels.classes:
            beside = ", ".join(sorted({name for index in indices for name in index.facts.extensions})[:8])
            rule = f'must name where labels stand, or "{NONE}"; beside the pictures there are {beside or "no others"}'
            raise MageKitError(f"label_from: '{label_from}', not one sample has a label there; {rule}")
        self._root = Path(str(path))
        self._ends = np.cumsum([len(index.names) for index in indices], dtype=np.int64)
        self._names = PackedNames(name for index in indices for name in index.names)
        self._offsets = np.concatenate([index.offsets_I for index in indices])
        self._sizes = np.concatenate([index.sizes_I for index in indices])
        self._labels, self.classes = labels.labels_I, labels.classes
        pairs = ((name, reason) for index in indices for name, reason in index.facts.passed_over)
        self.passed_over = [*others, *pairs]
        self.summary = summary(indices, labels.unread)
        self._handles: OrderedDict[tuple[int, int], int] = OrderedDict()
        tell(self, [("labels", labels.remark)] if labels.remark else [])

    def __len__(self) -> int:
        """Return the number of images in all tar files."""
        return len(self._offsets)

    def image(self, index: int) -> Image.Image:
        """Open the image; its pixels are not decoded yet.

        Raises:
            BrokenImageError: If it is no image, is larger than 4 x MAX_PIXELS bytes, or the tar file has changed.
        """
        tar = int(np.searchsorted(self._ends, index, side="right"))
        size = int(self._sizes[index])
        if size > _LARGEST:
            raise BrokenImageError(self.name(index), f"{size:,} bytes, must be at most {_LARGEST:,}")
        try:
            content = os.pread(self._handle(tar), size, int(self._offsets[index]))
        except OSError as error:
            raise image_error(self.name(index), error) from None
        if len(content) != size:
            raise BrokenImageError(self.name(index), f"{len(content)} of {size} bytes can be read")
        return open_image(BytesIO(content), self.name(index))

    def label(self, index: int) -> int | None:
        """Return the class number of the sample, or None."""
        label = int(self._labels[index])
        return None if label == NO_LABEL else label

    def name(self, index: int) -> str:
        """Return the tar file's path and the member's name."""
        return f"{self._tars[int(np.searchsorted(self._ends, index, side='right'))]}/{self._names[index]}"

    def identity(self) -> dict[str, object]:
        """Return count and classes; hashed: names, sizes and labels of all members, file by file."""
        digest = hashlib.sha256()
        for tar, end in zip(self._tars, self._ends.tolist(), strict=True):
            name = tar.relative_to(self._root).as_posix() if tar != self._root else tar.name
            digest.update(f"{name}\0{end}\n".encode("utf-8", "surrogateescape"))
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
