"""Frozen features of a data set: all tokens, nothing masked, nothing dropped, nothing random.

Legend: I images of the data set, C channels, H x W pixels, D encoder width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mage_kit.blocks import evaluating
from mage_kit.datasets import Dataset, Sample
from mage_kit.datasets.stills import still_batches
from mage_kit.errors import BrokenImageError, MageKitError
from mage_kit.evaluation.sources import FeatureSource, check_sources, pooled
from mage_kit.model import Mage
from mage_kit.processes import collect, rank, shared, world
from mage_kit.progress import Reporter

BATCH = 256


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
            _check_broken(len(broken), dataset, str(error))


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
    try:
        return dataset.labels()
    except MageKitError as error:
        raise MageKitError(f"data: {error}") from None


def extract_features(
    model: Mage, dataset: Dataset, *, batch: int = BATCH, reporter: Reporter | None = None
) -> Features:
    """Return the mean patch features of every image (paper section 4.2), float32, from unmasked tokens."""
    labels = labels_of(dataset)
    values, places = extract(model, dataset, [FeatureSource()], reporter=reporter)
    return Features(values[0], labels[places])


@torch.no_grad()
def extract(
    model: Mage,
    dataset: Dataset,
    sources: Sequence[FeatureSource],
    *,
    precision: Literal["float32", "bfloat16"] = "float32",
    batch: int = BATCH,
    reporter: Reporter | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the features of every image, from one pass over the data by all processes together.

    Images are taken in batches of the data set's order, each by one process, so that a batch holds the same images, and
    gives the same bits, whatever the number of processes (with the same number of threads in each).

    Args:
        model: The model; put into evaluation mode for the while.
        dataset: Images; labels are not read.
        sources: Which features.
        precision: What the encoder computes in; features are float32 either way, the tokenizer always.
        batch: Images at once.
        reporter: Where progress goes.

    Returns:
        float32 (I, D) for each source, and the images' places in the data set, int64 (I,), broken ones left out; the
        same in every process.

    Raises:
        MageKitError: If too many images are broken, or a feature is not finite.
        ValueError: If a source names a block that there is not.
    """
    check_sources(model, sources)
    parts = [range(start, min(start + batch, len(dataset))) for start in range(0, len(dataset), batch)]
    numbers = range(rank(), len(parts), world())
    mine: list[tuple[int, list[int], list[np.ndarray]]] = []
    broken: list[str] = []
    with evaluating(model), (reporter or Reporter()).task("extracting features", len(dataset)) as task:
        loaded = still_batches(dataset, [parts[number] for number in numbers])
        for number, found in zip(numbers, loaded, strict=True):
            broken += found.broken
            if found.samples:
                views = np.stack([sample.views[0] for sample in found.samples])
                places = [sample.index for sample in found.samples]
                mine.append((number, places, _features_of(model, views, sources, precision)))
            task.update(parts[number].stop)
    everybody = collect((mine, broken))
    lost = [line for _, lines in everybody for line in lines]
    if lost:
        _check_broken(len(lost), dataset, lost[-1])
    made = sorted((part for held, _ in everybody for part in held), key=lambda part: part[0])
    if not made:
        raise MageKitError("data: no image could be read")
    values = [np.concatenate([part[2][place] for part in made]) for place in range(len(sources))]
    if not all(np.isfinite(value).all() for value in values):
        raise MageKitError("features: not finite; the model's weights are damaged or its training diverged")
    return values, np.concatenate([np.array(part[1], dtype=np.int64) for part in made])


def _features_of(model: Mage, views: np.ndarray, sources: Sequence[FeatureSource], precision: str) -> list[np.ndarray]:
    given = torch.from_numpy(views).to(model.device)
    tokens = model.tokenizer.encode(given.float() / 255)  # stills are images, of a token cache too
    with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        made = pooled(model, tokens, sources)
    return [value.cpu().numpy() for value in made]


def _check_broken(count: int, dataset: Dataset, latest: str) -> None:
    if count > dataset.max_broken * len(dataset):
        found = f"data.max_broken: {dataset.max_broken:g}, exceeded by {count} of {len(dataset)} images"
        raise shared(MageKitError(f"{found}; the latest: {latest}"))
