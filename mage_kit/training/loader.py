"""Batches by step: the order is a permutation of (seed, epoch), so any step can be started from, at once.

Legend: B images, T views x B images (view after view), C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mage_kit.datasets import Dataset, Sample
from mage_kit.draws import derive
from mage_kit.errors import MageKitError


@dataclass(frozen=True)
class Batch:
    """One step's images.

    Args:
        images_TCHW: uint8, view after view.
        index_B: int64, places in the data set.
        epoch: Which pass over the data.
        views: Views of each image.
    """

    images_TCHW: Tensor
    index_B: Tensor
    epoch: int
    views: int


class Order:
    """Which images make up which step. The last, incomplete batch of an epoch is left out.

    Args:
        size: Images in the data set.
        batch: Images a step.
        seed: Seed of the permutations.

    Raises:
        MageKitError: If the data set is smaller than one batch.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        if size < batch:
            raise MageKitError(f"batch: {batch}, must be at most the number of images ({size})")
        self.size, self.batch, self.seed = size, batch, seed
        self.steps_per_epoch = size // batch
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def indices(self, step: int) -> tuple[int, list[int]]:
        """Return the epoch and the images of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = np.random.Generator(np.random.PCG64(derive(self.seed, "order", epoch)))
            self._epoch, self._permutation = epoch, random.permutation(self.size)
        chosen: list[int] = self._permutation[place * self.batch : (place + 1) * self.batch].tolist()
        return epoch, chosen


class _Views(TorchDataset["Sample | MageKitError"]):
    """A data set addressed by (epoch, index), so that a worker needs to know nothing else."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item: tuple[int, int]) -> Sample | MageKitError:
        """Return the sample, or the error: raised in a worker it would reach the user as a traceback."""
        epoch, index = item
        try:
            return self.dataset.sample(index, epoch, self.seed)
        except MageKitError as error:
            return error


class _Steps:
    """A batch sampler from `first` to `last`."""

    def __init__(self, order: Order, first: int, last: int) -> None:
        self.order, self.first, self.last = order, first, last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            epoch, chosen = self.order.indices(step)
            yield [(epoch, index) for index in chosen]

    def __len__(self) -> int:
        return self.last - self.first


def batches(dataset: Dataset, order: Order, first: int, last: int, seed: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps `first` to `last` - 1; the same whatever the number of workers.

    Args:
        dataset: Source of the views.
        order: Which images make up which step.
        first: First step.
        last: One past the last step.
        seed: Seed of the augmentation.
        workers: Loading processes; 0 loads in this one.
    """
    loader: DataLoader[Sample | MageKitError] = DataLoader(
        _Views(dataset, seed),
        batch_sampler=_Steps(order, first, last),
        num_workers=workers,
        collate_fn=_as_they_are,
        generator=torch.Generator().manual_seed(0),
    )
    for step, samples in enumerate(loader, start=first):
        failed = next((sample for sample in samples if isinstance(sample, MageKitError)), None)
        if failed is not None:
            raise failed
        yield collate(samples, order.indices(step)[0])


def collate(samples: list[Sample], epoch: int) -> Batch:
    """Stack samples, view after view."""
    views = len(samples[0].views)
    stacked = np.stack([sample.views[view] for view in range(views) for sample in samples])
    index_B = torch.tensor([sample.index for sample in samples], dtype=torch.int64)
    return Batch(torch.from_numpy(stacked), index_B, epoch, views)


def _as_they_are(samples: list[Sample | MageKitError]) -> list[Sample | MageKitError]:
    return samples
