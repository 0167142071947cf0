"""Features on disk: extracted once, in parts that every process writes its share of, and taken up where that stopped.

What they were made from is in each file, and what no longer fits is refused. Files of a data set hold fixed images, so
that their names and bits do not depend on how many processes there were.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from mage_kit import processes
from mage_kit.datasets import Dataset
from mage_kit.datasets.base import fingerprint
from mage_kit.errors import MageKitError
from mage_kit.evaluation.features import BATCH, Features, Made, batches, check_broken, check_finite, labels_of
from mage_kit.evaluation.kinds import Kind
from mage_kit.files import write_tensors
from mage_kit.progress import Reporter, Task

_KEY = "mage_kit"
_PARTS = 64  # of a data set, at most: what an interruption costs, and how many processes have work

Missing = list[tuple[int, list[int]]]
"""Numbers of parts, and of the kinds that are missing there."""


class FeatureCache:
    """Features of data sets, a folder of files for each data set and kind.

    Args:
        folder: Where they lie.
        refresh: Extract again what does not fit, instead of refusing it.
        reporter: Where progress goes.
    """

    def __init__(self, folder: Path, *, refresh: bool = False, reporter: Reporter | None = None) -> None:
        self.folder, self.refresh = folder, refresh
        self.reporter = reporter or Reporter()
        self._digests: dict[int, str] = {}

    def fill(self, name: str, dataset: Dataset, kinds: Sequence[Kind]) -> None:
        """Extract what is missing, in one pass over the images, by all processes together.

        Args:
            name: Of the data set, as "train"; folders begin with it.
            dataset: Labelled images.
            kinds: Which features.

        Raises:
            MageKitError: If files are of other weights, images or settings and `refresh` was not asked for, an image
                has no label, too many are broken, or a feature is not finite.
        """
        labels_of(dataset)
        stated, missing = processes.on_first(lambda: self._missing(name, dataset, kinds))
        if missing:
            found = processes.all_or_none(lambda: self._make(name, dataset, kinds, missing, stated))
            broken = [line for lines in found for line in lines]
            if broken:
                check_broken(len(broken), dataset, broken[-1])

    def read(self, name: str, dataset: Dataset, kind: Kind) -> Features:
        """Return features that are there, and the labels of their images.

        Raises:
            MageKitError: If a file is missing or damaged, or too many of the images could not be read.
        """
        labels = labels_of(dataset)
        values: list[np.ndarray] = []
        places: list[np.ndarray] = []
        for file in self._files(name, kind, len(dataset)):
            try:
                with safe_open(file, "pt") as held:
                    part = held.get_tensor("places").numpy()
                    if len(part):
                        values.append(held.get_tensor("values").numpy())
                        places.append(part)
            except Exception:  # damaged, however
                raise MageKitError(_damaged(file)) from None
        if not values:
            raise MageKitError("data: no image could be read")
        lost = len(dataset) - sum(len(part) for part in places)
        if lost:  # in several goes perhaps, each within what is allowed
            check_broken(lost, dataset, "told when they were extracted")
        return Features(np.concatenate(values), labels[np.concatenate(places)])

    def prints(self, name: str, dataset: Dataset, kind: Kind) -> np.ndarray:
        """Return a 64-bit hash of each image of features that are there, as the model saw it."""
        parts = []
        for file in self._files(name, kind, len(dataset)):
            with safe_open(file, "pt") as held:
                parts.append(held.get_tensor("prints").numpy())
        return np.concatenate(parts)

    def digest(self, dataset: Dataset) -> str:
        """Return a SHA-256 of what tells a data set from others; worked out once."""
        if id(dataset) not in self._digests:
            self._digests[id(dataset)] = fingerprint(dataset)
        return self._digests[id(dataset)]

    def _files(self, name: str, kind: Kind, images: int) -> list[Path]:
        count = len(parts_of(images))
        return [self.folder / f"{name}-{kind.file}" / f"{n:05d}-of-{count:05d}.safetensors" for n in range(count)]

    def _missing(self, name: str, dataset: Dataset, kinds: Sequence[Kind]) -> tuple[dict[str, Any], Missing]:
        """Return what all kinds are made from, and what is missing; what was made from something else is refused."""
        if self.refresh:
            for kind in kinds:
                shutil.rmtree(self.folder / f"{name}-{kind.file}", ignore_errors=True)
        stated, found = _stated(dataset, self.digest(dataset)), dict[int, list[int]]()
        for place, kind in enumerate(kinds):
            wanted = self._files(name, kind, len(dataset))
            there = set(wanted[0].parent.glob("*.safetensors"))  # some of another number of images, of other data
            for file in sorted(there):
                _check(file, {**kind.stated, **stated})
            for number, file in enumerate(wanted):
                if file not in there:
                    found.setdefault(number, []).append(place)
        whole = len(parts_of(len(dataset)))
        if whole > len(found) > 0:
            self.reporter.say(f"features of {name}: {whole - len(found)} of {whole} parts are there already")
        return stated, sorted(found.items())

    def _make(
        self, name: str, dataset: Dataset, kinds: Sequence[Kind], missing: Missing, stated: dict[str, Any]
    ) -> list[str]:
        """Make this process's share; return what is wrong with images that could not be read."""
        broken: list[str] = []
        parts = parts_of(len(dataset))
        mine = missing[processes.rank() :: processes.world()]
        total = sum(len(parts[number]) for number, _ in missing)
        with self.reporter.task(f"extracting features of {name}", total) as task:
            progress = _Progress(task, total)
            for number, wanted in mine:
                chosen = [kinds[place] for place in wanted]
                made = _of_part(chosen, dataset, parts[number], progress)
                broken += made.broken
                if len(broken) > dataset.max_broken * len(dataset):
                    break
                check_finite(made.values)
                for kind, values in zip(chosen, made.values, strict=True):
                    file = self._files(name, kind, len(dataset))[number]
                    _write(file, {**kind.stated, **stated}, values, made)
        return broken


class _Progress:
    """How far all processes are, as one of them sees it: it has every world-th part."""

    def __init__(self, task: Task, total: int) -> None:
        self.task, self.total, self.done = task, total, 0

    def add(self, images: int) -> None:
        self.done = min(self.total, self.done + images * processes.world())
        self.task.update(self.done)


def parts_of(images: int) -> list[range]:
    """Return the images of each file: whole batches, at most 64 files."""
    size = -(-images // (BATCH * _PARTS)) * BATCH
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def _of_part(kinds: Sequence[Kind], dataset: Dataset, part: range, progress: _Progress) -> Made:
    ranges = [range(start, min(start + BATCH, part.stop)) for start in range(part.start, part.stop, BATCH)]
    values: list[list[np.ndarray]] = [[] for _ in kinds]
    places: list[int] = []
    prints: list[int] = []
    broken: list[str] = []
    for images, made in zip(ranges, batches(kinds, dataset, ranges), strict=True):
        for held, value in zip(values, made.values, strict=False):  # nothing where no image could be read
            held.append(value)
        places += made.places
        prints += made.prints
        broken += made.broken
        progress.add(len(images))
    empty = np.zeros((0, 0), dtype=np.float32)
    return Made([np.concatenate(held) if held else empty for held in values], places, prints, broken)


def _stated(dataset: Dataset, digest: str) -> dict[str, Any]:
    """Return what features of any kind are made from."""
    augment = dataset.augment
    return {
        "image_size": list(dataset.image_size),
        "view": {"centre": augment.centre, "filter": augment.filter},
        "batch": BATCH,
        "data": digest,
    }


def _check(file: Path, wanted: dict[str, Any]) -> None:
    try:
        with safe_open(file, "pt") as held:
            found = json.loads((held.metadata() or {})[_KEY])
    except Exception:  # damaged, however
        raise MageKitError(_damaged(file)) from None
    differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        what = ", ".join(name.replace("_sha256", "") for name in differing)
        raise MageKitError(f"features: '{file.parent}', were made from other {what}; --refresh extracts them again")


def _damaged(file: Path) -> str:
    return f"features: '{file}', is damaged; --refresh extracts them again"


def _write(file: Path, stated: dict[str, Any], values: np.ndarray, made: Made) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"places": made.places, "prints": made.prints}
    tensors = {
        "values": torch.from_numpy(values),
        **{k: torch.tensor(v, dtype=torch.int64) for k, v in numbers.items()},
    }
    write_tensors(file, tensors, {_KEY: json.dumps(stated, sort_keys=True)})
