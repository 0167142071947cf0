"""Where the images of a tar file lie: read from its headers once, then kept in the user's cache folder.

A sample is what shares a name up to the first dot, as in the webdataset format: "n01/7.jpg" and "n01/7.cls" are one,
whatever stands between them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.images.image_files import SUFFIXES

_VERSION = 1
_CLASSES = 1 << 20  # a number above is no class
_LONGEST_LABEL = 32  # bytes of a .cls member that are read
NO_LABEL = -1


@dataclass(frozen=True)
class TarIndex:
    """The images of one tar file.

    Args:
        names: Of the image members.
        offsets_I: Where each one's bytes start.
        sizes_I: How many there are.
        labels_I: Class numbers; NO_LABEL where a sample has none.
        passed_over: (name, reason) of what is no image or cannot be read.
    """

    names: PackedNames
    offsets_I: NDArray[np.int64]
    sizes_I: NDArray[np.int64]
    labels_I: NDArray[np.int64]
    passed_over: tuple[tuple[str, str], ...]


def tar_index(path: Path) -> TarIndex:
    """Return a tar file's index, from the cache where the file has not changed since.

    Raises:
        MageKitError: If it is no plain tar file.
    """
    place = _place(path)
    with contextlib.suppress(Exception):  # damaged in whatever way: it is scanned again
        return _read(place)
    index = _scan(path)
    with contextlib.suppress(OSError):  # no room in the cache: it is scanned again next time
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(place, index)
    return index


def _place(path: Path) -> Path:
    """The cache's file for a tar file: by path, size and time of change."""
    stat = path.stat()
    text = f"{_VERSION}\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return (
        folder / "mage_kit" / "tar_index" / f"{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}.npz"
    )


def _scan(path: Path) -> TarIndex:
    images: dict[str, tarfile.TarInfo] = {}
    others: dict[str, str] = {}
    labels: dict[str, int] = {}
    passed_over: list[tuple[str, str]] = []
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as raw:
            for member in _members(tar, path, passed_over):
                key, suffix = _split(member.name)
                if member.offset_data + member.size > size:
                    passed_over.append((f"{path}/{member.name}", "the tar file ends inside it"))
                elif suffix.rpartition(".")[2] == "cls":
                    labels[key] = _label(raw, member)
                elif f".{suffix.rpartition('.')[2]}" not in SUFFIXES:
                    others.setdefault(key, member.name)
                elif key in images:
                    passed_over.append((f"{path}/{member.name}", "another image of the same sample"))
                else:
                    images[key] = member
    except (tarfile.ReadError, EOFError) as error:
        raise MageKitError(
            f"path: '{path}', must be a tar file, neither compressed nor damaged at its start ({error})"
        ) from None
    passed_over += [(f"{path}/{name}", "no image, by its suffix") for key, name in others.items() if key not in images]
    return TarIndex(
        PackedNames(member.name for member in images.values()),
        np.array([member.offset_data for member in images.values()], dtype=np.int64),
        np.array([member.size for member in images.values()], dtype=np.int64),
        np.array([labels.get(key, NO_LABEL) for key in images], dtype=np.int64),
        tuple(passed_over),
    )


def _members(tar: tarfile.TarFile, path: Path, passed_over: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    """Yield regular files; where headers break off after some, keep those and note it."""
    count = 0
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header of the file
            count += 1
            if member.isreg():
                yield member
        if not _ends(tar, path):  # a header that does not add up ends the loop without a word
            passed_over.append(
                (str(path), f"damaged after {count} members: its headers break off at byte {tar.offset}")
            )
    except (tarfile.TarError, OSError, EOFError) as error:
        if not count:
            raise tarfile.ReadError(str(error)) from None
        passed_over.append((str(path), f"damaged after {count} members: {error}"))


def _ends(tar: tarfile.TarFile, path: Path) -> bool:
    """Whether a tar file ends where reading stopped: with the zeros that end one, or with the file."""
    with path.open("rb") as raw:
        raw.seek(tar.offset)
        return not raw.read(tarfile.BLOCKSIZE).strip(b"\0")


def _split(name: str) -> tuple[str, str]:
    """ "a/b.left.jpg" -> ("a/b", "left.jpg")."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix.lower()


def _label(raw: BinaryIO, member: tarfile.TarInfo) -> int:
    text = os.pread(raw.fileno(), min(member.size, _LONGEST_LABEL), member.offset_data)
    try:
        number = int(text.decode("ascii"))
    except ValueError:
        return NO_LABEL
    return number if 0 <= number < _CLASSES else NO_LABEL


def _write(place: Path, index: TarIndex) -> None:
    passed_over = [text for pair in index.passed_over for text in pair]
    arrays: dict[str, Any] = {"offsets": index.offsets_I, "sizes": index.sizes_I, "labels": index.labels_I}
    arrays |= index.names.arrays("names") | PackedNames(passed_over).arrays("passed_over")
    with atomic(place) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(place: Path) -> TarIndex:
    with np.load(place, allow_pickle=False) as arrays:
        texts = list(PackedNames.of_arrays(arrays, "passed_over"))
        names = PackedNames.of_arrays(arrays, "names")
        pairs = tuple(zip(texts[::2], texts[1::2], strict=True))
        return TarIndex(names, arrays["offsets"], arrays["sizes"], arrays["labels"], pairs)
