"""A measure written outside of mage_kit: the nearest mean of a class, by Euclidean distance of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

import mage_kit as mk


@mk.MEASURES.register("class-means")
class ClassMeans(mk.FeatureMeasure):
    """Nearest class mean: each test image is of the class whose mean training features are nearest.

    Args:
        scale: Divide each feature by its deviation first.
    """

    title: ClassVar[str] = "Nearest class mean"

    def __init__(self, *, scale: bool = True, **shared: Any) -> None:
        super().__init__(**shared)
        self.scale = scale

    def row(self, subject: mk.Subject, name: str, train: mk.Features, test: mk.Features) -> dict[str, Any]:
        deviation_D = train.values_ID.std(axis=0) + 1e-6 if self.scale else 1.0
        learn_ID, asked_JD = train.values_ID / deviation_D, test.values_ID / deviation_D
        means = [learn_ID[train.labels_I == number].mean(axis=0) for number in range(subject.split.classes)]
        distances_JK = np.linalg.norm(asked_JD[:, None] - np.stack(means)[None], axis=2)
        return {"top1": float((distances_JK.argmin(axis=1) == test.labels_I).mean())}

    def protocol(self, subject: mk.Subject) -> str:
        return f"nearest class mean, {'scaled' if self.scale else 'plain'} Euclidean distance"

    @classmethod
    def paper(cls, figure: mk.Figure, result: Mapping[str, Any], recipe: mk.Recipe | None) -> tuple[float | None, str]:
        return (0.123, "a figure of its own paper") if figure.of == "raw pixels" else (None, "none")
