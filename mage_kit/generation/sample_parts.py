"""Samples on disk while they are made, so that a killed command goes on, and memory holds a batch and no more.

They lie in a folder beside the place to write, `OUT.parts`, which becomes what was asked for when all are there: a
folder of pictures, or one .npz. Legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import LOCK_FILE, atomic, drop_temporaries, locked, read_json, take_place, write_json
from mage_kit.images.image_writing import write_png
from mage_kit.images.pictures import bytes_picture

SETTINGS = "settings.json"
Bytes = NDArray[np.uint8]


class SampleParts(ABC):
    """What one form of samples needs to be written bit by bit.

    Args:
        target: The place to write.
        settings: What made the samples, in JSON's types; `first` and `images` say which they are.
    """

    own: re.Pattern[str]  # names of files in `folder`

    def __init__(self, target: Path, settings: Mapping[str, Any]) -> None:
        self.target, self.settings = target, dict(settings)
        self.folder = target.with_name(f"{target.name}.parts")
        self.first, self.count = int(settings["first"]), int(settings["images"])

    @contextmanager
    def held(self, overwrite: bool) -> Iterator[None]:
        """Hold the folder of parts: a new one, or one that the same settings began.

        Args:
            overwrite: Whether one of other settings goes.

        Raises:
            MageKitError: If it is another's, or another process is at it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, "out"):
            self._settle(overwrite)
            yield
            (self.folder / LOCK_FILE).unlink(missing_ok=True)

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
    def add(self, start: int, images_BCHW: Bytes, labels: Sequence[int] | None) -> None:
        """Write images, of which the first has this number."""

    @abstractmethod
    def finish(self, labels: NDArray[np.int64] | None) -> None:
        """Turn the parts, all there, into what was asked for."""

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
        write_json(self.folder / SETTINGS, self.settings)

    def _difference(self) -> str:
        """Name the settings in which the parts that are there are others than ours."""
        file = self.folder / SETTINGS
        theirs = read_json(file) if file.is_file() else {}
        return ", ".join(name for name in self.settings if self.settings[name] != theirs.get(name))


class PictureParts(SampleParts):
    """A folder of PNGs, each named by its image's number, with its settings in it."""

    own = re.compile(r"\d{6,}\.png|settings\.json|steps\.gif")

    def indices(self) -> set[int]:
        """Return which images are there."""
        return {int(path.stem) for path in self.folder.glob("*.png")}

    def add(self, start: int, images_BCHW: Bytes, labels: Sequence[int] | None) -> None:
        """Write a file an image."""
        shared = {name: value for name, value in self.settings.items() if name != "labels"}  # a thousand, at times
        for place, image_CHW in enumerate(images_BCHW):
            own = {**shared, "index": start + place, "label": None if labels is None else labels[place]}
            write_png(bytes_picture(image_CHW), self.folder / f"{start + place:06d}.png", own)

    def finish(self, labels: NDArray[np.int64] | None) -> None:
        """Give the folder its name."""
        (self.folder / LOCK_FILE).unlink(missing_ok=True)
        take_place(self.folder, self.target)


class ArrayParts(SampleParts):
    """One .npz as evaluators of published models read it: uint8 `arr_0` (images, H, W, C), int64 `arr_1` of labels."""

    own = re.compile(r"\d{6,}-\d+\.npy|settings\.json|steps\.gif")

    def indices(self) -> set[int]:
        """Return which images are there."""
        return {index for start, count, _ in self._files() for index in range(start, start + count)}

    def add(self, start: int, images_BCHW: Bytes, labels: Sequence[int] | None) -> None:
        """Write one array."""
        with atomic(self.folder / f"{start:06d}-{len(images_BCHW)}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, images_BCHW.transpose(0, 2, 3, 1), allow_pickle=False)

    def finish(self, labels: NDArray[np.int64] | None) -> None:
        """Write the file from the parts, one in memory at a time, and remove these."""
        files = self._files()
        shape = (self.count, *np.load(files[0][2], mmap_mode="r").shape[1:])
        animation = self.folder / "steps.gif"
        with atomic(self.target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, _, part in files:
                    file.write(np.load(part, allow_pickle=False).tobytes())
            if labels is not None:
                with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                    np.lib.format.write_array(file, labels, allow_pickle=False)
            write_json(self.target.with_suffix(".json"), self.settings)
            if animation.is_file():
                os.replace(animation, self.target.with_suffix(".gif"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return (first image, how many, file), in order."""
        names = ((path, path.stem.partition("-")) for path in self.folder.glob("*.npy"))
        return sorted((int(start), int(count), path) for path, (start, _, count) in names)
