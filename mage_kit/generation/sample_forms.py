"""The two forms of many samples: a folder of PNGs, and one .npz.

Legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.files import LOCK_FILE, atomic, take_place, write_json
from mage_kit.generation.sample_parts import Bytes, SampleParts
from mage_kit.images.image_writing import write_png
from mage_kit.images.pictures import bytes_picture


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
