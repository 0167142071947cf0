"""The two forms of many samples: a folder of PNGs, and one .npz.

Legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import LOCK_FILE, atomic, take_place, write_json
from mage_kit.generation.sample_parts import SETTINGS, Bytes, SampleParts
from mage_kit.generation.sample_place import PICTURES
from mage_kit.images.image_writing import write_png
from mage_kit.images.pictures import bytes_picture


class PictureParts(SampleParts):
    """A folder of PNGs, each named by its image's number, with its settings in it."""

    own = PICTURES
    is_folder = True

    def indices(self) -> set[int]:
        """Return which images are there."""
        return {int(path.stem) for path in self.folder.glob("*.png")}

    def drop_damaged(self) -> None:
        """Remove pictures whose checksums, which PNG keeps of each piece, do not fit."""
        for path in self.folder.glob("*.png"):
            try:
                with Image.open(path, formats=("PNG",)) as picture:
                    picture.verify()
            except (OSError, SyntaxError, ValueError):
                path.unlink()

    def add(self, start: int, images_BCHW: Bytes, labels: Sequence[int] | None) -> None:
        """Write a file an image."""
        shared = {name: value for name, value in self.settings.items() if name != "labels"}  # a thousand, at times
        for place, image_CHW in enumerate(images_BCHW):
            own = {**shared, "index": start + place, "label": None if labels is None else labels[place]}
            write_png(bytes_picture(image_CHW), self.folder / f"{start + place:06d}.png", own)

    def move(self, labels: NDArray[np.int64] | None) -> None:
        """Give the folder its name."""
        (self.folder / LOCK_FILE).unlink(missing_ok=True)
        take_place(self.folder, self.target)


class ArrayParts(SampleParts):
    """One .npz as evaluators of published models read it: uint8 `arr_0` (images, H, W, C), int64 `arr_1` of labels.

    Parts are named FIRST-COUNT-DIGEST. It is put together among them, and then moved: `_WHOLE` stays behind while what
    lies beside it is written.
    """

    own = re.compile(r"\d{6,}-\d+-[0-9a-f]{64}\.npy|settings\.json|steps\.gif|whole\.npz|whole")
    is_folder = False
    _FILE, _WHOLE = "whole.npz", "whole"

    def indices(self) -> set[int]:
        """Return which images are there."""
        return {index for start, count, _ in self._files() for index in range(start, start + count)}

    def drop_damaged(self) -> None:
        """Remove arrays whose SHA-256 is not that of their name."""
        for _, _, path in self._files():
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem.rpartition("-")[2]:
                path.unlink()

    def add(self, start: int, images_BCHW: Bytes, labels: Sequence[int] | None) -> None:
        """Write one array."""
        buffer = io.BytesIO()
        np.save(buffer, images_BCHW.transpose(0, 2, 3, 1), allow_pickle=False)
        name = f"{start:06d}-{len(images_BCHW)}-{hashlib.sha256(buffer.getbuffer()).hexdigest()}.npy"
        with atomic(self.folder / name) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def has_moved(self) -> bool:
        """Return whether the file is in its place, since it is whole and no longer here."""
        is_ours = (self.folder / SETTINGS).is_file() and not self._difference()
        return is_ours and (self.folder / self._WHOLE).is_file() and not (self.folder / self._FILE).is_file()

    def move(self, labels: NDArray[np.int64] | None) -> None:
        """Write the file from the parts, one in memory at a time; move it, and remove these."""
        if not self.has_moved():
            with atomic(self.folder / self._FILE) as temporary:
                self._write(temporary, labels)
            (self.folder / self._WHOLE).touch()
            os.replace(self.folder / self._FILE, self.target)
        write_json(self.target.with_suffix(".json"), self.settings)
        if (animation := self.folder / "steps.gif").is_file():
            os.replace(animation, self.target.with_suffix(".gif"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, place: Path, labels: NDArray[np.int64] | None) -> None:
        files = self._files()
        form = np.load(files[0][2], mmap_mode="r").shape[1:]
        with zipfile.ZipFile(place, "w") as archive:
            with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *form)}
                np.lib.format.write_array_header_1_0(file, header)
                for part in self._arrays(files, form):
                    file.write(part.tobytes())
            if labels is not None:
                with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                    np.lib.format.write_array(file, labels, allow_pickle=False)

    def _arrays(self, files: list[tuple[int, int, Path]], form: tuple[int, ...]) -> Iterator[Bytes]:
        """Yield the images in order, each once: parts of calls with other batches may overlap."""
        done = self.first
        for start, count, path in files:
            part: Bytes = np.load(path, allow_pickle=False)
            if part.shape != (count, *form) or part.dtype != np.uint8:
                raise MageKitError(f"out: '{path}', holds {part.shape} {part.dtype}, must be {(count, *form)} uint8")
            if start + count > done:
                yield part[done - start :]
                done = start + count

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return (first image, how many, file), in order."""
        names = ((path, path.stem.split("-")) for path in self.folder.glob("*.npy"))
        return sorted((int(start), int(count), path) for path, (start, count, _) in names)
