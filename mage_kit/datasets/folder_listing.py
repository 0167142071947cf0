"""What stands in a folder of images: which files are images, of which class, and what is left out and why.

Names are relative to the folder and sorted, so that indices mean the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.datasets.passed_over import HIDDEN, NO_FILE, UNREAD, is_junk, suffix_reason
from mage_kit.images.image_files import SUFFIXES

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"})
NO_CLASS = "a class folder without images"


class FolderListing:
    """What stands in a folder.

    Args:
        root: The folder.

    Attributes:
        names: Image files, relative to the folder.
        labels: Number of each one's class; none where there are no classes.
        classes: Names of the sub-folders that hold images, in their order.
        passed_over: (path, reason) of everything else.

    Raises:
        MageKitError: If it holds images beside sub-folders, or its sub-folders are splits and no classes.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.names, self.labels = root, list[str](), list[int]()
        self.passed_over: list[tuple[str, str]] = []
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
        class_by_name = {entry.name: _is_class(entry) for entry in entries}
        folders = [name for name, is_class in class_by_name.items() if is_class]
        others = [entry for entry in entries if not class_by_name[entry.name]]
        images = [entry.name for entry in others if self._judge(entry.name, _is_file(entry))]
        if folders and images:
            raise MageKitError(f"path: '{root}', holds both images and sub-folders; use one or the other")
        if folders and all(name.lower() in _SPLITS for name in folders):
            train = next((name for name in folders if name.lower().startswith("train")), folders[0])
            rule = f"sub-folders must be classes; '{root / train}' was meant, perhaps"
            raise MageKitError(f"path: '{root}', holds the splits {', '.join(folders)}: {rule}")
        self.names += images
        classes: list[str] = []
        for folder in folders:
            names = [
                name
                for name, is_file in sorted(self._below(folder, (os.path.realpath(root),)))
                if self._judge(name, is_file)
            ]
            if names:
                self.labels += [len(classes)] * len(names)
                self.names += names
                classes.append(folder)
            else:
                self.passed_over.append((str(root / folder), NO_CLASS))
        self.classes = tuple(classes)

    def lost(self) -> list[tuple[str, str]]:
        """Return (path, reason) of what looks like an image and is none here."""
        return [(name, reason) for name, reason in self.passed_over if reason in (UNREAD, NO_FILE)]

    def _judge(self, name: str, is_file: bool) -> bool:
        """Return whether this may be an image file; else note why not."""
        reason = suffix_reason(name) or (None if is_file else NO_FILE)
        if reason is not None:
            self.passed_over.append((str(self.root / name), reason))
        return reason is None

    def _below(self, folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
        """Yield (name, is it a file) of everything below a folder that is no folder to walk into.

        Links to folders are followed, but for those that lead back up.
        """
        real = os.path.realpath(self.root / folder)
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                name = os.path.join(folder, entry.name)
                if _is_folder(entry) and os.path.splitext(name)[1].lower() not in SUFFIXES:
                    if is_junk(entry.name):
                        self.passed_over.append((str(self.root / name), HIDDEN))
                    elif entry.is_symlink() and leads_back(entry.path, (*above, real)):
                        self.passed_over.append((str(self.root / name), "a link to a folder above it"))
                    else:
                        yield from self._below(name, (*above, real))
                else:
                    yield name, _is_file(entry)


def leads_back(link: str | Path, places: Sequence[str]) -> bool:
    """Return whether a link to a folder leads to one of these places, or to a folder above one: what is there is read.

    Args:
        link: The link.
        places: Real paths of the folders that were walked through, the first among them.
    """
    target = os.path.realpath(link)
    return any(os.path.commonpath((target, place)) == target for place in places)


def _is_class(entry: os.DirEntry[str]) -> bool:
    """Folders are classes, but for junk, those that are named like an image, and links back up."""
    if is_junk(entry.name) or Path(entry.name).suffix.lower() in SUFFIXES:
        return False
    try:
        here = Path(entry.path)
        return entry.is_dir() and not here.parent.resolve().is_relative_to(here.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file; for all but links the listing itself says so, without asking the disk for each."""
    try:
        return entry.is_file()
    except OSError:
        return False
