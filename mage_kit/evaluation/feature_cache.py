"""Features on disk: extracted once, in parts that every process writes its share of, and taken up where that stopped.

What they were made from is in each file, and what no longer fits is refused. Files of a data set hold fixed images, so
that their names and bits do not depend on how many processes there were.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mage_kit.base import processes
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.stills import check_broken
from mage_kit.evaluation.feature_parts import (
    Progress,
    check_part,
    check_room,
    damage_words,
    made_parts,
    parts_of,
    read_broken,
    read_part,
    write_part,
)
from mage_kit.evaluation.features import BATCH, Features, check_finite, labels_of
from mage_kit.evaluation.kinds import Kind

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
        self._digests: dict[int, tuple[Dataset, str]] = {}  # a data set is held, so that its id stays its own

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
        processes.first_ahead(partial(labels_of, dataset))
        inputs, gaps = processes.on_first(lambda: self._find_gaps(name, dataset, kinds))
        self._digests[id(dataset)] = (dataset, inputs["data"])
        if gaps:
            reports = processes.all_or_none(lambda: self._make(name, dataset, kinds, gaps, inputs))
            broken = [line for lines in reports for line in lines]
            if broken:
                check_broken(len(broken), dataset, broken[-1])

    def read(self, name: str, dataset: Dataset, kind: Kind) -> Features:
        """Return features that are there, and the labels of their images.

        Raises:
            MageKitError: If a file is missing or damaged, or too many of the images could not be read.
        """
        labels, places = labels_of(dataset), self._numbers(name, dataset, kind, "places")
        n_broken = len(dataset) - len(places)
        broken = self.broken(name, dataset, kind)
        if len(broken) != n_broken:
            raise MageKitError(damage_words(self._files(name, kind, len(dataset))[0].parent))
        if n_broken:  # in several goes perhaps, each within what is allowed
            check_broken(n_broken, dataset, str(broken[-1]))
        values, row = np.zeros((0, 0), dtype=np.float32), 0
        for file in self._files(name, kind, len(dataset)):
            part = read_part(file, "values")
            if len(part):
                values = values if len(values) else np.empty((len(places), part.shape[1]), dtype=np.float32)
                values[row : row + len(part)] = part
                row += len(part)
        if not row:
            raise MageKitError("data: no image could be read")
        return Features(values, labels[places])

    def prints(self, name: str, dataset: Dataset, kind: Kind) -> np.ndarray:
        """Return a 64-bit hash of each image of features that are there, as the model saw it."""
        return self._numbers(name, dataset, kind, "prints")

    def broken(self, name: str, dataset: Dataset, kind: Kind) -> list[BrokenImageError]:
        """Return the images that could not be read, of features that are there."""
        return [error for file in self._files(name, kind, len(dataset)) for error in read_broken(file)]

    def digest(self, dataset: Dataset) -> str:
        """Return a SHA-256 of what tells a data set from others; worked out once."""
        if id(dataset) not in self._digests:
            self._digests[id(dataset)] = (dataset, fingerprint(dataset))
        return self._digests[id(dataset)][1]

    def _numbers(self, name: str, dataset: Dataset, kind: Kind, what: str) -> np.ndarray:
        return np.concatenate([read_part(file, what) for file in self._files(name, kind, len(dataset))])

    def _files(self, name: str, kind: Kind, images: int) -> list[Path]:
        count = len(parts_of(images))
        return [self.folder / f"{name}-{kind.file}" / f"{n:05d}-of-{count:05d}.safetensors" for n in range(count)]

    def _find_gaps(self, name: str, dataset: Dataset, kinds: Sequence[Kind]) -> tuple[dict[str, Any], Missing]:
        """Return what all kinds are made from, and what is missing; what was made from something else is refused."""
        if self.refresh:
            for kind in kinds:
                shutil.rmtree(self.folder / f"{name}-{kind.file}", ignore_errors=True)
        inputs, gaps = _inputs(dataset, self.digest(dataset)), dict[int, list[int]]()
        for place, kind in enumerate(kinds):
            files = self._files(name, kind, len(dataset))
            there = set(files[0].parent.glob("*.safetensors"))  # some of another number of images, of other data
            for file in sorted(there):
                check_part(file, {**kind.inputs, **inputs})
            for number, file in enumerate(files):
                if file not in there:
                    gaps.setdefault(number, []).append(place)
        whole = len(parts_of(len(dataset)))
        if whole > len(gaps) > 0:
            self.reporter.say(f"features of {name}: {whole - len(gaps)} of {whole} parts are there already")
        return inputs, sorted(gaps.items())

    def _make(
        self, name: str, dataset: Dataset, kinds: Sequence[Kind], gaps: Missing, inputs: dict[str, Any]
    ) -> list[str]:
        """Make this process's share; return what is wrong with images that could not be read."""
        broken: list[str] = []
        parts = parts_of(len(dataset))
        total = sum(len(parts[number]) for number, _ in gaps)
        groups: dict[tuple[int, ...], list[int]] = {}  # parts that miss the same kinds: all of them, as a rule
        for number, places in gaps[processes.rank() :: processes.world()]:
            groups.setdefault(tuple(places), []).append(number)
        with self.reporter.task(f"extracting features of {name}", total) as task:
            progress, first = Progress(task, total), True
            for key, numbers in groups.items():
                group = [kinds[place] for place in key]
                for number, part in made_parts(group, dataset, numbers, progress):
                    broken += map(str, part.broken)
                    if len(broken) > dataset.max_broken * len(dataset):
                        return broken
                    check_finite(part.values)
                    if first and part.places:
                        check_room(self.folder, part, total)
                        first = False
                    for kind, values in zip(group, part.values, strict=True):
                        file = self._files(name, kind, len(dataset))[number]
                        write_part(file, {**kind.inputs, **inputs}, values, part)
        return broken


def _inputs(dataset: Dataset, digest: str) -> dict[str, Any]:
    """Return what features of any kind are made from."""
    augment = dataset.augment
    return {
        "image_size": list(dataset.image_size),
        "view": {"centre": augment.centre, "filter": augment.filter},
        "batch": BATCH,
        "data": digest,
    }
