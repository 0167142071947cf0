"""Frozen features of a data set: all tokens, nothing masked, nothing dropped, nothing random.

Legend: I images of the data set, C channels, H x W pixels, D encoder width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mage_kit.datasets import Dataset, Sample
from mage_kit.errors import BrokenImageError, MageKitError
from mage_kit.model import Mage
from mage_kit.progress import Reporter


@dataclass(frozen=True)
class Features:
    """Features with their labels.

    Args:
        values_ID: float32.
        labels_I: int64.
    """

    values_ID: np.ndarray
    labels_I: np.ndarray


def stills(dataset: Dataset) -> Iterator[Sample]:
    """Yield the evaluation views of all images, without those that are broken.

    Raises:
        MageKitError: If more of them are broken than the data set's `max_broken` allows.
    """
    broken: list[BrokenImageError] = []
    for index in range(len(dataset)):
        try:
            yield dataset.still(index)
        except BrokenImageError as error:
            broken.append(error)
            if len(broken) > dataset.max_broken * len(dataset):
                found = f"data.max_broken: {dataset.max_broken:g}, exceeded by {len(broken)} of {len(dataset)} images"
                raise MageKitError(f"{found}; the latest: {error}") from None


def still_images(dataset: Dataset) -> tuple[Tensor, np.ndarray]:
    """Return the evaluation views, uint8 (I, C, H, W), and their labels; for labelled data that fits in memory.

    Raises:
        ValueError: If an image has no label, or too many are broken.
    """
    labels = labels_of(dataset)
    samples = list(stills(dataset))
    images = torch.from_numpy(np.stack([sample.views[0] for sample in samples]))
    return images, labels[[sample.index for sample in samples]]


def labels_of(dataset: Dataset) -> np.ndarray:
    """Return the labels of all images, int64.

    Raises:
        ValueError: If an image has none.
    """
    labels = [dataset.label(index) for index in range(len(dataset))]
    if any(label is None for label in labels):
        raise ValueError(f"data: {type(dataset).__name__} gives images without labels, a probe needs a label each")
    return np.array(labels, dtype=np.int64)


def extract_features(model: Mage, dataset: Dataset, *, batch: int = 256, reporter: Reporter | None = None) -> Features:
    """Return the mean patch features of every image (paper section 4.2), float32, from unmasked tokens.

    Args:
        model: The model; put into evaluation mode for the while.
        dataset: Labelled images.
        batch: Images at once.
        reporter: Where progress goes.
    """
    labels = labels_of(dataset)
    parts, places = [], []
    with (reporter or Reporter()).task("extracting features", len(dataset)) as task:
        samples = stills(dataset)
        while chunk := list(itertools.islice(samples, batch)):
            images = torch.from_numpy(np.stack([sample.views[0] for sample in chunk])).to(model.device).float() / 255
            parts.append(model.features(images).cpu())
            places += [sample.index for sample in chunk]
            task.update(places[-1] + 1)
    return Features(torch.cat(parts).numpy(), labels[places])
