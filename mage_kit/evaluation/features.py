"""Frozen features of a data set: all tokens, nothing masked, nothing dropped, nothing random.

Legend: I images of the data set, C channels, H x W pixels, D encoder width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mage_kit.datasets import Dataset
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


def still_images(dataset: Dataset) -> Tensor:
    """Return the evaluation views of all images, uint8 (I, C, H, W); for data sets that fit in memory."""
    return torch.from_numpy(np.stack([dataset.still(index).views[0] for index in range(len(dataset))]))


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
    parts = []
    with (reporter or Reporter()).task("extracting features", len(dataset)) as task:
        for start in range(0, len(dataset), batch):
            views = [dataset.still(index).views[0] for index in range(start, min(start + batch, len(dataset)))]
            images = torch.from_numpy(np.stack(views)).to(model.device).float() / 255
            parts.append(model.features(images).cpu())
            task.update(min(start + batch, len(dataset)))
    return Features(torch.cat(parts).numpy(), labels)
