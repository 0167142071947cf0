"""Which tar files a folder holds, sub-folders included, in the order of their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.datasets.folder_listing import leads_back
from mage_kit.datasets.passed_over import HIDDEN, is_junk

NO_TAR = "no tar file, by its suffix"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4", ".tar.z")
_RULE = "is compressed, which allows no access by place: unpack it (mage-kit reads plain .tar files)"


def tar_files(path: str | None) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the tar files of a folder, or the one that is named, and (path, reason) of what else is there.

    Raises:
        MageKitError: If there is none, or one is compressed.
    """
    if path is None:
        raise MageKitError("path: null, must name a folder of tar files (--set data.path=DIR)")
    place = Path(path)
    if not place.is_file() and not place.is_dir():
        raise MageKitError(f"path: '{path}', must be a folder of tar files, or one")
    files, passed_over = list[Path](), list[tuple[str, str]]()
    for file in [place] if place.is_file() else _below(place, (), passed_over):
        name = file.name.lower()
        if name.endswith(_PACKED):
            raise MageKitError(f"path: '{path}', '{file.relative_to(place) if file != place else file.name}' {_RULE}")
        if (name.endswith(".tar") and file.is_file()) or file == place:
            files.append(file)
        else:
            passed_over.append((str(file), NO_TAR))
    if not files:
        raise MageKitError(f"path: '{path}', holds no .tar file")
    return sorted(files, key=lambda file: file.relative_to(place).parts), passed_over


def _below(folder: Path, above: tuple[str, ...], passed_over: list[tuple[str, str]]) -> Iterator[Path]:
    """Yield all files; links to folders are followed, but for those that lead back up."""
    real = os.path.realpath(folder)
    for entry in sorted(folder.iterdir()):
        if is_junk(entry.name):
            passed_over.append((str(entry), HIDDEN))
        elif not entry.is_dir():
            yield entry
        elif entry.is_symlink() and leads_back(entry, (*above, real)):
            passed_over.append((str(entry), "a link to a folder above it"))
        else:
            yield from _below(entry, (*above, real), passed_over)
