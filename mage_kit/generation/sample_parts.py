"""Samples on disk while they are made, so that a killed command goes on, and memory holds a batch and no more.

They lie in a folder beside the place to write, `OUT.parts`, which becomes what was asked for when all are there: a
folder of pictures, or one .npz. Legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import LOCK_FILE, drop_temporaries, locked, read_json, write_json
from mage_kit.generation.sample_place import check_target

SETTINGS = "settings.json"
Bytes = NDArray[np.uint8]


class SampleParts(ABC):
    """What one form of samples needs to be written bit by bit.

    Args:
        target: The place to write.
        settings: What made the samples, in JSON's types; `first` and `images` say which they are.
    """

    own: re.Pattern[str]  # names of files in `folder`
    is_folder: bool

    def __init__(self, target: Path, settings: Mapping[str, Any]) -> None:
        self.target, self.settings = target, dict(settings)
        self.folder = target.with_name(f"{target.name}.parts")
        self.first, self.count = int(settings["first"]), int(settings["images"])

    @contextmanager
    def hold(self, overwrite: bool) -> Iterator[None]:
        """Hold the folder of parts: a new one, or one that the same settings began.

        Args:
            overwrite: Whether one of other settings goes.

        Raises:
            MageKitError: If it is another's, another process is at it, or the place to write is taken.
        """
        self.check(overwrite)  # before a folder is made
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, "out"):
            self._settle(overwrite)
            self.check(overwrite)  # what was there a moment ago may be another's by now
            yield
            (self.folder / LOCK_FILE).unlink(missing_ok=True)

    def check(self, overwrite: bool) -> None:
        """Make sure that the place may be written; see `check_target`."""
        if not self.has_moved():
            check_target(self.target, overwrite, folder=self.is_folder)

    def has_moved(self) -> bool:
        """Return whether a killed call has put everything in its place already, but for what is beside it."""
        return False

    def missing(self, batch: int) -> list[tuple[int, int]]:
        """Return (first image, how many) of what is not there yet, at most `batch` at once."""
        there, runs = self.indices(), list[tuple[int, int]]()
        for index in range(self.first, self.first + self.count):
            if index in there:
                continue
            start, size = runs[-1] if runs else (index, batch)
            if runs and start + size == index and size < batch:
                runs[-1] = (start, size + 1)
            else:
                runs.append((index, 1))
        return runs

    @abstractmethod
    def indices(self) -> set[int]:
        """Return which images are there."""

    @abstractmethod
    def drop_damaged(self) -> None:
        """Remove parts that are not what was written: their images are made again."""

    @abstractmethod
    def add(self, start: int, images_BCHW: Bytes, labels: Sequence[int] | None) -> None:
        """Write images, of which the first has this number."""

    def finish(self, labels: NDArray[np.int64] | None, overwrite: bool) -> None:
        """Turn the parts into what was asked for.

        Raises:
            MageKitError: If images are missing, as where machines share no folder, or the place is taken by now.
        """
        if not self.has_moved() and (gaps := self.missing(self.count)):
            count = sum(size for _, size in gaps)
            raise MageKitError(f"out: '{self.folder}', lacks {count} of {self.count} images, number {gaps[0][0]} first")
        self.check(overwrite)
        self.move(labels)

    @abstractmethod
    def move(self, labels: NDArray[np.int64] | None) -> None:
        """Put everything in its place."""

    def _settle(self, overwrite: bool) -> None:
        drop_temporaries(self.folder)
        names = {path.name for path in self.folder.iterdir()} - {LOCK_FILE}
        if foreign := sorted(name for name in names if not self.own.fullmatch(name)):
            raise MageKitError(f"out: '{self.folder}', holds {foreign[0]}, which is no part of samples; remove it")
        if names and (difference := self._difference()):
            if not overwrite:
                rule = "finish those, remove that folder, or give --overwrite"
                raise MageKitError(f"out: '{self.folder}', holds unfinished samples of other {difference}; {rule}")
            for name in names:
                (self.folder / name).unlink()
        self.drop_damaged()
        write_json(self.folder / SETTINGS, self.settings)

    def _difference(self) -> str:
        """Name the settings in which the parts that are there are others than ours."""
        file = self.folder / SETTINGS
        theirs = read_json(file) if file.is_file() else {}
        return ", ".join(name for name in self.settings if self.settings[name] != theirs.get(name))
