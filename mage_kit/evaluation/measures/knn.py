"""k-NN classification of frozen features by cosine similarity (Wu et al., 2018; DINO's protocol).

Legend: I training images, J test images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from mage_kit.base.fields import Positive
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.measures.base import MEASURES, Figure
from mage_kit.evaluation.measures.on_features import FeatureMeasure
from mage_kit.evaluation.subject import Subject

NEIGHBOURS = (5, 10, 20, 50, 100)
TEMPERATURE = 0.07
_HEADLINE = 20  # neighbours
_AT_ONCE = 512  # test images


@MEASURES.register("knn")
class Neighbours(FeatureMeasure):
    """k-NN classification by cosine similarity.

    Args:
        k: Numbers of neighbours; the headline is 20, or else the largest. Those above the number of training images are
            left out.
    """

    title: ClassVar[str] = "k-NN"

    def __init__(self, *, k: Annotated[tuple[Positive, ...], Field(min_length=1)] = NEIGHBOURS, **shared: Any) -> None:
        super().__init__(**shared)
        self.k = tuple(sorted(set(k)))

    def row(self, subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
        """Return top-1 of the headline, and of each number of neighbours."""
        top1_k = knn_accuracy(train, test, subject.split.classes, counts=self.k, device=subject.model.device)
        headline = _HEADLINE if _HEADLINE in top1_k else max(top1_k)
        subject.reporter.say(f"k-NN, {name}: {top1_k[headline]:.4f} (k = {headline})")
        return {"top1": top1_k[headline], "k": headline, "by_k": {str(count): top1 for count, top1 in top1_k.items()}}

    def protocol(self, subject: Subject) -> str:
        """Return how votes are counted, and which numbers were left out."""
        numbers = ", ".join(map(str, self.k))
        left_out = [str(count) for count in self.k if count > len(subject.split.train)]
        protocol = f"cosine similarity, votes exp(similarity / {TEMPERATURE}); k of {numbers}"
        protocol += f" ({', '.join(left_out)} left out: fewer training images)" if left_out else ""
        return f"{protocol}; the headline is k = {_HEADLINE}, or else the largest"

    @classmethod
    def figures(cls, result: Mapping[str, Any]) -> list[Figure]:
        """Return top-1 for each number of neighbours."""
        return [
            Figure(of, f"top1, k = {count}", float(top1))
            for of, row in result["rows"].items()
            for count, top1 in row["by_k"].items()
        ]


def knn_accuracy(
    train: Features,
    test: Features,
    classes: int,
    *,
    counts: Sequence[int] = NEIGHBOURS,
    device: torch.device | None = None,
) -> dict[int, float]:
    """Return top-1 accuracy for each number of neighbours; each votes with exp(similarity / 0.07).

    Args:
        train: Whose labels are known.
        test: Whose are asked for.
        classes: How many, K.
        counts: Numbers of neighbours; those above the number of training images are left out.
        device: Where to compute.
    """
    bank = F.normalize(torch.from_numpy(train.values_ID).to(device or "cpu"), dim=1)
    labels = torch.from_numpy(train.labels_I).to(bank.device)
    counts = [count for count in counts if count <= len(labels)] or [len(labels)]
    hits = dict.fromkeys(counts, 0)
    for start in range(0, len(test.labels_I), _AT_ONCE):
        part = F.normalize(torch.from_numpy(test.values_ID[start : start + _AT_ONCE]).to(bank.device), dim=1)
        truth = torch.from_numpy(test.labels_I[start : start + _AT_ONCE]).to(bank.device)
        similarity, places = (part @ bank.T).topk(max(counts), dim=1)
        votes, theirs = (similarity / TEMPERATURE).exp(), labels[places]
        for count in counts:
            scores = torch.zeros(len(part), classes, device=bank.device)
            scores.scatter_add_(1, theirs[:, :count], votes[:, :count])
            hits[count] += int((scores.argmax(dim=1) == truth).sum())
    return {count: n_hits / len(test.labels_I) for count, n_hits in hits.items()}
