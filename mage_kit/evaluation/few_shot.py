"""What a few labels are worth: linear classifiers on frozen features of so many images of each class.

Paper: section 4.2, Table 3 and Figure 5; supplement, "Few-shot Transfer Learning".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mage_kit.base.errors import MageKitError
from mage_kit.datasets.chosen import drawn
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.logistic import fit_logistic

SHOTS = (1, 5, 10, 13, 25)
STRENGTH = 1.0  # fixed: so few labels leave none to choose it by


@dataclass(frozen=True)
class FewShot:
    """Accuracies at a number of labelled images of each class.

    Args:
        shots: Labelled images of each class.
        top1: Mean over the seeds.
        std: Deviation over the seeds, of a sample.
        seeds: How many draws of the images.
    """

    shots: int
    top1: float
    std: float
    seeds: int


def few_shot(
    train: Features,
    test: Features,
    classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = 5,
    device: torch.device | None = None,
) -> list[FewShot]:
    """Fit to drawn images, test on all test images.

    Args:
        train: Where images are drawn from.
        test: What the classifier is tested on.
        classes: How many.
        shots: Numbers of images of each class.
        seeds: Draws at each number.
        device: Where to compute.

    Raises:
        MageKitError: If a class has fewer images than a number asks for.
    """
    check_shots(train.labels_I, [str(number) for number in range(classes)], shots)
    made = []
    for count in shots:
        found = []
        for seed in range(seeds):
            places = drawn(train.labels_I, classes, count, seed)
            model = fit_logistic(train.values_ID[places], train.labels_I[places], classes, STRENGTH, device=device)
            found.append(model.accuracy(test.values_ID, test.labels_I))
        deviation = float(np.std(found, ddof=1)) if seeds > 1 else 0.0
        made.append(FewShot(count, float(np.mean(found)), deviation, seeds))
    return made


def check_shots(labels_I: np.ndarray, classes: Sequence[str], shots: Sequence[int]) -> None:
    """Raise MageKitError if a class has fewer labelled images than a number asks for."""
    counts = np.bincount(labels_I, minlength=len(classes))
    if counts.min() < max(shots):
        least = int(counts.argmin())
        found = f"class '{classes[least]}' has {counts[least]} training images"
        raise MageKitError(f"shots: {max(shots)}, {found}, must be at most that")
