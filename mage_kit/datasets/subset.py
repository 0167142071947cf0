"""Some images of a data set: what few labels are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError
from mage_kit.datasets.base import Dataset, Sample


class Subset(Dataset):
    """Some images of another data set, in a given order.

    Args:
        source: The other one.
        places: Of its images.
    """

    def __init__(self, source: Dataset, places: Sequence[int]) -> None:
        super().__init__(source.image_size, source.channels, source.augment)
        self.source, self.places = source, tuple(places)
        self.classes, self.max_broken, self.streams = source.classes, source.max_broken, source.streams
        self.passed_over, self.summary, self.levels = source.passed_over, source.summary, source.levels
        self.credit = source.credit

    def __len__(self) -> int:
        """Return how many were chosen."""
        return len(self.places)

    def image(self, index: int) -> Image.Image:
        """Return the stored image."""
        return self.source.image(self.places[index])

    def label(self, index: int) -> int | None:
        """Return the class number, or None."""
        return self.source.label(self.places[index])

    def name(self, index: int) -> str:
        """Return what the source calls it."""
        return self.source.name(self.places[index])

    def sample(self, index: int, epoch: int, seed: int) -> Sample:
        """Return the source's training views; the place is the one among those chosen."""
        return dataclasses.replace(self.source.sample(self.places[index], epoch, seed), index=index)

    def still(self, index: int) -> Sample:
        """Return the source's evaluation view; the place is the one among those chosen."""
        return dataclasses.replace(self.source.still(self.places[index]), index=index)

    def identity(self) -> dict[str, object]:
        """Return what tells the source from other data, and which of its images these are."""
        return {**self.source.identity(), "chosen": list(self.places)}


def few_of_each(dataset: Dataset, count: int, seed: int) -> Subset:
    """Return so many images of each class, drawn from the seed, class by class.

    Args:
        dataset: Labelled images.
        count: Of each class.
        seed: Of the draw.

    Raises:
        MageKitError: If a class has fewer.
    """
    labels = dataset.labels()
    for number, name in enumerate(dataset.classes):
        places = np.flatnonzero(labels == number)
        if len(places) < count:
            raise MageKitError(
                f"images_per_class: {count}, class '{name}' has {len(places)} images, must be at most that"
            )
    return Subset(dataset, draw_places(labels, len(dataset.classes), count, seed).tolist())


def draw_places(labels_I: NDArray[np.int64], classes: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return places of so many images of each class, drawn from the seed; those of fewer are among those of more.

    Args:
        labels_I: Of all images.
        classes: How many.
        count: Of each class; of one that has fewer, all.
        seed: Of the draw.
    """
    places = []
    for number in range(classes):
        random = np.random.Generator(np.random.PCG64(derive(seed, "few", number)))
        places.append(random.permutation(np.flatnonzero(labels_I == number))[:count])
    return np.concatenate(places)
