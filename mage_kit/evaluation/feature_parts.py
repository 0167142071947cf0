"""Features of a data set, made and written in parts of fixed images: the same files whoever made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from mage_kit.base import processes
from mage_kit.base.digests import arrays_digest
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.files import write_tensors
from mage_kit.base.progress import ProgressTask
from mage_kit.datasets import Dataset
from mage_kit.evaluation.features import BATCH, FeatureBatch, feature_batches
from mage_kit.evaluation.kinds import Kind

_KEY = "mage_kit"
_PARTS = 64  # of a data set, at most: what an interruption costs, and how many processes have work


class Progress:
    """How far all processes are, as one of them sees it: it has every world-th part."""

    def __init__(self, task: ProgressTask, total: int) -> None:
        self.task, self.total, self.done = task, total, 0

    def add(self, images: int) -> None:
        """Tell that this process is done with some more."""
        self.done = min(self.total, self.done + images * processes.world())
        self.task.update(self.done)


def parts_of(images: int) -> list[range]:
    """Return the images of each part: whole batches, at most 64 parts."""
    size = -(-images // (BATCH * _PARTS)) * BATCH
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def made_parts(
    kinds: Sequence[Kind], dataset: Dataset, numbers: Sequence[int], progress: Progress
) -> Iterator[tuple[int, FeatureBatch]]:
    """Yield parts, made one after another; their images are loaded as one stream, so that no loader stands still."""
    parts = parts_of(len(dataset))
    ranges = [
        (number, range(start, min(start + BATCH, parts[number].stop)))
        for number in numbers
        for start in range(parts[number].start, parts[number].stop, BATCH)
    ]
    batches: list[FeatureBatch] = []
    stream = feature_batches(kinds, dataset, [images for _, images in ranges])
    for (number, images), batch in zip(ranges, stream, strict=True):
        batches.append(batch)
        progress.add(len(images))
        if images.stop == parts[number].stop:
            yield number, _join(batches, len(kinds))
            batches = []


def _join(batches_: list[FeatureBatch], kinds: int) -> FeatureBatch:
    """Join batches, freeing each kind's as it is copied: all of them twice would not fit."""
    full = [batch for batch in batches_ if batch.places]
    values = []
    for place in range(kinds):
        rows = [batch.values[place] for batch in full]
        values.append(np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.float32))
        for batch in full:
            batch.values[place] = np.zeros((0, 0), dtype=np.float32)
    return FeatureBatch(
        values,
        [place for batch in batches_ for place in batch.places],
        [mark for batch in batches_ for mark in batch.prints],
        [error for batch in batches_ for error in batch.broken],
    )


def write_part(file: Path, inputs: dict[str, Any], values: np.ndarray, part: FeatureBatch) -> None:
    """Write one kind of a part, with what it was made from and which images could not be read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"places": part.places, "prints": part.prints}
    tensors = {name: torch.tensor(value, dtype=torch.int64) for name, value in numbers.items()}
    tensors["values"] = torch.from_numpy(values)
    digests = {name: arrays_digest({name: tensor.numpy()}) for name, tensor in tensors.items()}
    broken = [[error.name, error.reason] for error in part.broken]
    write_tensors(file, tensors, {_KEY: json.dumps({**inputs, "broken": broken, "sha256": digests}, sort_keys=True)})


def check_part(file: Path, inputs: dict[str, Any]) -> None:
    """Raise MageKitError for a part that is damaged, or was made from something else."""
    try:
        with safe_open(file, "pt") as reader:
            theirs = json.loads((reader.metadata() or {})[_KEY])
    except Exception:  # damaged, however
        raise MageKitError(damage_words(file)) from None
    differing = [name for name, value in inputs.items() if theirs.get(name) != value]
    if differing:
        what = ", ".join(name.replace("_sha256", "") for name in differing)
        raise MageKitError(f"features: '{file.parent}', were made from other {what}; --refresh extracts them again")


def read_part(file: Path, name: str) -> np.ndarray:
    """Return "values", "places" or "prints" of a part.

    Raises:
        MageKitError: If the file is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as reader:
            tensor: torch.Tensor = reader.get_tensor(name)
            if json.loads((reader.metadata() or {})[_KEY])["sha256"][name] != arrays_digest({name: tensor.numpy()}):
                raise ValueError("is not what was written")
    except Exception:  # damaged, however
        raise MageKitError(damage_words(file)) from None
    return tensor.numpy()


def read_broken(file: Path) -> list[BrokenImageError]:
    """Return the images of a part that could not be read.

    Raises:
        MageKitError: If the file is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as reader:
            pairs = json.loads((reader.metadata() or {})[_KEY])["broken"]
        return [BrokenImageError(str(name), str(reason)) for name, reason in pairs]
    except Exception:  # damaged, however
        raise MageKitError(damage_words(file)) from None


def check_room(folder: Path, first: FeatureBatch, images: int) -> None:
    """Raise MageKitError if what is still to be made will not fit on the disk, as its first part tells.

    Args:
        folder: Where it goes.
        first: A part, made.
        images: Still to be made, by all processes.
    """
    bytes_ = sum(values.nbytes for values in first.values) / max(1, len(first.places)) * images
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if bytes_ > free:
        rule = f"{bytes_ / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free"
        raise MageKitError(f"features: '{folder}', {rule}; name fewer --source, or leave out --baselines")


def damage_words(file: Path) -> str:
    """Return the sentence about features that are not what was written."""
    return f"features: '{file}', is damaged; --refresh extracts them again"
