"""Data sets whose classes are those of another, found by name: a class's place in a listing says nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.errors import MageKitError
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets.base import DATASETS, Dataset, DatasetWires, Sample
from mage_kit.datasets.subset import Subset

_SHOWN = 3


class Renumbered(Subset):
    """A data set with its class numbers replaced.

    Args:
        source: The data set.
        classes: What the new numbers mean.
        numbers: New number of each of its own classes.
    """

    def __init__(self, source: Dataset, classes: Sequence[str], numbers: Sequence[int]) -> None:
        super().__init__(source, range(len(source)))
        self.classes, self.numbers = tuple(classes), tuple(numbers)

    def label(self, index: int) -> int | None:
        """Return the new class number, or None."""
        label = super().label(index)
        return None if label is None else self.numbers[label]

    def labels(self) -> NDArray[np.int64]:
        """Return the new class numbers of all images."""
        return np.array(self.numbers, dtype=np.int64)[self.source.labels()]

    def sample(self, index: int, epoch: int, seed: int) -> Sample:
        """Return the source's training views, with the new class number."""
        return dataclasses.replace(super().sample(index, epoch, seed), label=self.label(index))

    def still(self, index: int) -> Sample:
        """Return the source's evaluation view, with the new class number."""
        return dataclasses.replace(super().still(index), label=self.label(index))

    def identity(self) -> dict[str, object]:
        """Return the source's: images and names are the same."""
        return self.source.identity()


def open_by_names(config: ComponentConfig, wires: DatasetWires, classes: Sequence[str]) -> Dataset:
    """Open a data set, its classes numbered as they were learned where both have names.

    Args:
        config: Of the data set.
        wires: What the tokenizer wires into it.
        classes: Names of the classes, in the order of their numbers; none leaves its own.

    Raises:
        MageKitError: If it cannot be opened, or has a class that is not among them.
    """
    dataset = DATASETS.build(config, wires)
    return by_names(dataset, classes) if classes and dataset.classes else dataset


def by_names(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Return the data set with its classes numbered as they were learned; it may lack some of them.

    Args:
        dataset: Labelled images.
        classes: Names of the classes, in the order of their numbers.

    Raises:
        MageKitError: If it has a class that is not among them.
    """
    if tuple(dataset.classes) == tuple(classes):
        return dataset
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in dataset.classes if name not in numbers]
    if unknown:
        names = ", ".join(f"'{name}'" for name in classes[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        raise MageKitError(f"class '{unknown[0]}' is none of the {len(classes)} that were learned ({names})")
    return Renumbered(dataset, classes, [numbers[name] for name in dataset.classes])
