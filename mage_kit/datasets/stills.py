"""Evaluation views in batches, loaded by other processes where a GPU would wait for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.processes import shared
from mage_kit.datasets.base import Dataset, Sample
from mage_kit.datasets.remarks import tell

_LISTED = 100  # files that a result names


@dataclass(frozen=True)
class Stills:
    """Some images.

    Args:
        samples: Those that could be read.
        broken: What is wrong with the others, by name.
    """

    samples: list[Sample]
    broken: list[BrokenImageError]


def check_broken(count: int, dataset: Dataset, latest: str) -> None:
    """Raise MageKitError if more images are broken than the data set's `max_broken` allows."""
    if count > dataset.max_broken * len(dataset):
        rule = f"max_broken is {dataset.max_broken:g} of them"
        raise shared(
            MageKitError(f"data: {count} of {len(dataset)} images cannot be read, {rule}; the latest: {latest}")
        )


def broken_facts(broken: Sequence[BrokenImageError], *datasets: Dataset) -> dict[str, Any]:
    """Return what a result says of the images that it leaves out, ready for JSON.

    Args:
        broken: Those that could not be read.
        datasets: All images, the parts of a split one by one.

    Returns:
        "broken_images", how many; and where there are any, the first of them as "broken_files", by name with the
        reason, and as "left_out" files that were none of the images from the start.
    """
    facts: dict[str, Any] = {"broken_images": len(broken)}
    if broken:
        facts["broken_files"] = {error.name: error.reason for error in broken[:_LISTED]}
    if left_out := dict(pair for dataset in datasets for pair in dataset.passed_over):
        facts["left_out"] = dict(list(left_out.items())[:_LISTED])
    return facts


class _Views(TorchDataset["Sample | BrokenImageError"]):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample | BrokenImageError:
        try:
            return self.dataset.still(index)
        except BrokenImageError as error:
            return error


def still_batches(dataset: Dataset, batches: Sequence[Sequence[int]], workers: int | None = None) -> Iterator[Stills]:
    """Yield the evaluation views of images, batch by batch, in their order.

    Args:
        dataset: Where they come from.
        batches: Places of the images of each batch.
        workers: Loading processes; None for 8 where there is a GPU, else none.
    """
    count = (8 if torch.cuda.is_available() else 0) if workers is None else workers
    loader: DataLoader[Any] = DataLoader(
        _Views(dataset),
        batch_sampler=[list(part) for part in batches],
        num_workers=count,
        collate_fn=_sort,
        generator=torch.Generator().manual_seed(0),  # else it would draw from torch's own
    )
    for stills in loader:
        tell(dataset, (each for sample in stills.samples for each in sample.remarks))
        yield stills


def _sort(items: list[Sample | BrokenImageError]) -> Stills:
    return Stills(
        [item for item in items if isinstance(item, Sample)],
        [item for item in items if isinstance(item, BrokenImageError)],
    )
