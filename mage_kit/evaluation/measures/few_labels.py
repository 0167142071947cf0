"""What a few labels are worth: linear classifiers on frozen features of so many images of each class.

Paper: section 4.2, Table 3 and Figure 5; supplement, "Few-shot Transfer Learning".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import Positive
from mage_kit.base.processes import first_ahead
from mage_kit.datasets.subset import draw_places
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.logistic import fit_logistic
from mage_kit.evaluation.measures.base import MEASURES, Curves, Figure
from mage_kit.evaluation.measures.on_features import FeatureMeasure
from mage_kit.evaluation.subject import Subject

SHOTS = (1, 5, 10, 13, 25)
STRENGTH = 1.0  # fixed: so few labels leave none to choose it by


Draws = Annotated[int, Field(ge=2)]
Shots = Annotated[tuple[Positive, ...], Field(min_length=1)]


@MEASURES.register("fewshot")
class FewShot(FeatureMeasure):
    """Linear classifiers from a few labels, mean and deviation over draws, with a plot (paper, Table 3).

    Args:
        shots: Labelled images of each class.
        draws: Draws of these images at each number.
    """

    title: ClassVar[str] = "Few-shot"

    def __init__(self, *, shots: Shots = SHOTS, draws: Draws = 5, **shared: Any) -> None:
        super().__init__(**shared)
        self.shots, self.draws = tuple(sorted(set(shots))), draws

    def prepare(self, subject: Subject) -> None:
        """Each class must have images enough."""
        train = subject.split.train
        first_ahead(lambda: check_shots(train.labels(), train.classes, self.shots))

    def row(self, subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
        """Return top-1 of the largest number, and mean and deviation of each."""
        classes, device = subject.split.classes, subject.model.device
        accuracies = few_shot(train, test, classes, shots=self.shots, seeds=self.draws, device=device)
        words = ", ".join(f"{each.shots}: {each.top1:.3f} ± {each.std:.3f}" for each in accuracies)
        subject.reporter.say(f"few-shot, {name}: {words}")
        return {"top1": accuracies[-1].top1, "by_shots": {str(each.shots): asdict(each) for each in accuracies}}

    def protocol(self, subject: Subject) -> str:
        """Return how classifiers are fitted and tested."""
        return few_shot_protocol(self.draws)

    @classmethod
    def figures(cls, result: Mapping[str, Any]) -> list[Figure]:
        """Return mean and deviation for each number of labelled images."""
        return [
            Figure(of, f"top1, {count} a class", float(each["top1"]), float(each["std"]))
            for of, row in result["rows"].items()
            for count, each in row["by_shots"].items()
        ]

    @classmethod
    def curves(cls, result: Mapping[str, Any]) -> Curves:
        """Return top-1 over labelled images of each class, by features."""
        points = {
            name: [(float(each["shots"]), float(each["top1"]), float(each["std"])) for each in row["by_shots"].values()]
            for name, row in result["rows"].items()
        }
        return Curves("Top-1 from a few labels", "labelled images of each class", points)


@dataclass(frozen=True)
class ShotAccuracy:
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
) -> list[ShotAccuracy]:
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
    rows = []
    for count in shots:
        scores = []
        for seed in range(seeds):
            places = draw_places(train.labels_I, classes, count, seed)
            model = fit_logistic(train.values_ID[places], train.labels_I[places], classes, STRENGTH, device=device)
            scores.append(model.accuracy(test.values_ID, test.labels_I))
        deviation = float(np.std(scores, ddof=1)) if seeds > 1 else 0.0
        rows.append(ShotAccuracy(count, float(np.mean(scores)), deviation, seeds))
    return rows


def check_shots(labels_I: np.ndarray, classes: Sequence[str], shots: Sequence[int]) -> None:
    """Raise MageKitError if a class has fewer labelled images than a number asks for."""
    counts = np.bincount(labels_I, minlength=len(classes))
    if counts.min() < max(shots):
        least = int(counts.argmin())
        fact = f"class '{classes[least]}' has {counts[least]} training images"
        raise MageKitError(f"shots: {max(shots)}, {fact}, must be at most that")


def few_shot_protocol(draws: int) -> str:
    """Return how few-shot classifiers are fitted and tested, in a line."""
    return (
        f"linear classifier (L-BFGS, strength {STRENGTH:g}, standardised features) on drawn images of each class, all "
        f"others unseen; tested on all test images; mean and sample deviation over {draws} draws"
    )
