"""Batches by step: the order is a permutation of (seed, epoch), so any step can be started from, at once.

Legend: B images, T views x B images (view after view), C channels, H x W pixels.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mage_kit.base.draws import derive
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.datasets import Dataset, Sample
from mage_kit.layers.condition import UNKNOWN
from mage_kit.training.batches import IMAGES, Batch
from mage_kit.training.signals import WATCHED

_STAND_INS = 100  # broken images in a row, after which the data is no data


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
        images: list[int] = self._permutation[place * self.batch : (place + 1) * self.batch].tolist()
        return epoch, images


@dataclass(frozen=True)
class Share:
    """Which part of each step's images a process loads: the `rank`-th of `world` equal runs of the batch."""

    rank: int = 0
    world: int = 1

    def of(self, images: list[int]) -> list[int]:
        """Return this process's images, in the batch's order."""
        size = len(images) // self.world
        return images[self.rank * size : (self.rank + 1) * size]


_ALL = Share()


@dataclass(frozen=True)
class _Loaded:
    """A sample, and what was met on the way to it."""

    sample: Sample
    epoch: int
    broken: tuple[tuple[str, str], ...]


class _Views(TorchDataset["_Loaded | MageKitError"]):
    """A data set addressed by (epoch, index), so that a worker needs to know nothing else."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item: tuple[int, int]) -> _Loaded | MageKitError:
        """Return the sample, or the error: raised in a worker it would reach the user as a traceback."""
        try:
            return self._load(*item)
        except MageKitError as error:
            return error

    def _load(self, epoch: int, index: int) -> _Loaded:
        """Load an image; where it is broken another one, drawn from (seed, epoch, index), so that every run and
        every process puts the same one in its place. It keeps the index: masks follow the place in the batch."""
        broken: list[tuple[str, str]] = []
        random = np.random.Generator(np.random.PCG64(derive(self.seed, "stand-in", epoch, index)))
        place = index
        for _ in range(_STAND_INS):
            try:
                sample = self.dataset.sample(place, epoch, self.seed)
            except BrokenImageError as error:
                if not self.dataset.max_broken:
                    raise
                broken.append((error.name, error.reason))
                place = int(random.integers(len(self.dataset)))
                continue
            return _Loaded(dataclasses.replace(sample, index=index), epoch, tuple(broken))
        name, reason = broken[-1]
        raise MageKitError(f"data: {_STAND_INS} images drawn in a row are all broken, last {name} ({reason})")


class _Steps:
    """A batch sampler from `first` to `last`."""

    def __init__(self, order: Order, first: int, last: int, share: Share) -> None:
        self.order, self.first, self.last, self.share = order, first, last, share

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first, self.last):
            epoch, images = self.order.indices(step)
            yield [(epoch, index) for index in self.share.of(images)]

    def __len__(self) -> int:
        return self.last - self.first


def batches(
    dataset: Dataset, order: Order, first: int, last: int, seed: int, workers: int, share: Share = _ALL
) -> Iterator[Batch]:
    """Yield the batches of steps `first` to `last` - 1; the same whatever the number of workers.

    Args:
        dataset: Source of the views.
        order: Which images make up which step.
        first: First step.
        last: One past the last step.
        seed: Seed of the augmentation.
        workers: Loading processes; 0 loads in this one.
        share: This process's part of each batch.

    Raises:
        MageKitError: If an image is broken and the data set's `max_broken` is 0, or nearly all are broken.
    """
    loader: DataLoader[Any] = DataLoader(
        _Views(dataset, seed),
        batch_sampler=_Steps(order, first, last, share),
        num_workers=workers,
        collate_fn=_collate,  # where images are loaded: one tensor comes over, in shared memory, instead of many arrays
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_signals if workers else None,
    )
    for batch in loader:
        if isinstance(batch, MageKitError):
            raise batch
        yield batch


def _collate(items: list[_Loaded | MageKitError]) -> Batch | MageKitError:
    """Stack samples, view after view; or return the first error."""
    good = [item for item in items if isinstance(item, _Loaded)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, MageKitError))
    samples = [item.sample for item in good]
    views = len(samples[0].views)
    in_turn = [sample.views[view] for view in range(views) for sample in samples]
    content = {IMAGES: in_turn} if not isinstance(in_turn[0], dict) else _by_stream(in_turn)
    tensors = {name: torch.from_numpy(np.stack(arrays)) for name, arrays in content.items()}
    index_B = torch.tensor([sample.index for sample in samples], dtype=torch.int64)
    broken = tuple(pair for item in good for pair in item.broken)
    labels = [UNKNOWN if sample.label is None else sample.label for sample in samples]
    labels_B = None if set(labels) == {UNKNOWN} else torch.tensor(labels, dtype=torch.int64)
    remarks = tuple(each for sample in samples for each in sample.remarks)
    return Batch(tensors, index_B, good[0].epoch, views, labels_B, broken, remarks)


def _by_stream(views: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Turn views with several streams into streams with several views."""
    return {name: [view[name] for view in views] for name in views[0]}


def _leave_signals(_: int) -> None:
    """A worker goes on when the run is told to stop: the training process finishes its step, then ends it."""
    for number in WATCHED:
        signal.signal(number, signal.SIG_IGN)
