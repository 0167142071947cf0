"""Frozen features of a data set: all tokens, nothing masked, nothing dropped, nothing random.

Legend: I images of the data set, C channels, H x W pixels, D encoder width.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.processes import all_or_none, rank, world
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset, Sample
from mage_kit.datasets.stills import check_broken, still_batches
from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.kinds import Kind, Precision, compute, model_kinds
from mage_kit.layers.blocks import evaluating
from mage_kit.models.mage import Mage

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
            check_broken(len(broken), dataset, str(error))


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
    values, places = extract(model, dataset, [FeatureSource()], batch=batch, reporter=reporter)
    return Features(values[0], labels[places])


def extract(
    model: Mage,
    dataset: Dataset,
    sources: Sequence[FeatureSource],
    *,
    precision: Precision = "float32",
    batch: int = BATCH,
    reporter: Reporter | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the features of every image, from one pass over the data by all processes together, in memory.

    Images are taken in batches of the data set's order, each by one process, so that a batch holds the same images, and
    gives the same bits, whatever the number of processes (with the same number of threads in each). Data sets whose
    features no process should hold whole are for `FeatureCache`.

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
    kinds = model_kinds(model, sources, precision=precision, weights="")
    parts = [range(start, min(start + batch, len(dataset))) for start in range(0, len(dataset), batch)]

    def work() -> tuple[list[tuple[int, FeatureBatch]], list[str]]:
        numbers = range(rank(), len(parts), world())
        mine: list[tuple[int, FeatureBatch]] = []
        with (reporter or Reporter()).task("extracting features", len(dataset)) as task:
            for number, result in zip(
                numbers, feature_batches(kinds, dataset, [parts[number] for number in numbers]), strict=True
            ):
                mine.append((number, result))
                task.update(parts[number].stop)
        return mine, [str(error) for _, result in mine for error in result.broken]

    everybody = all_or_none(work)
    failures = [line for _, lines in everybody for line in lines]
    if failures:
        check_broken(len(failures), dataset, failures[-1])
    in_order = [
        result for _, result in sorted((part for pairs, _ in everybody for part in pairs), key=lambda part: part[0])
    ]
    full = [result for result in in_order if result.places]
    if not full:
        raise MageKitError("data: no image could be read")
    values = [np.concatenate([result.values[place] for result in full]) for place in range(len(sources))]
    check_finite(values)
    return values, np.concatenate([np.array(result.places, dtype=np.int64) for result in full])


@dataclass(frozen=True)
class FeatureBatch:
    """Features of a batch.

    Args:
        values: float32 (images, D) of each kind; none where no image could be read.
        places: Of the images, in the data set; broken ones left out.
        prints: A hash of each image as the model sees it, in 64 bits: the same image twice has the same.
        broken: What is wrong with those.
    """

    values: list[np.ndarray]
    places: list[int]
    prints: list[int]
    broken: list[BrokenImageError]


def feature_batches(kinds: Sequence[Kind], dataset: Dataset, parts: Sequence[range]) -> Iterator[FeatureBatch]:
    """Yield the features of batches of a data set's images, each model in evaluation mode for the while."""
    with contextlib.ExitStack() as modes:
        for model in {id(kind.model): kind.model for kind in kinds}.values():
            if model is not None:
                modes.enter_context(evaluating(model))
        for batch in still_batches(dataset, parts):
            places = [sample.index for sample in batch.samples]
            views = [sample.views[0] for sample in batch.samples]
            prints = [_print(view) for view in views]
            values = compute(kinds, np.stack(views)) if views else []
            yield FeatureBatch(values, places, prints, batch.broken)


def _print(view: np.ndarray) -> int:
    digest = hashlib.blake2b(np.ascontiguousarray(view).data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def check_finite(values: Sequence[np.ndarray]) -> None:
    """Raise MageKitError for a feature that is not finite."""
    if not all(np.isfinite(value).all() for value in values):
        raise MageKitError("features: not finite; the model's weights are damaged or its training diverged")
