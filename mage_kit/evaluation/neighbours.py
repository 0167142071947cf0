"""k-NN classification of frozen features by cosine similarity (Wu et al., 2018; DINO's protocol).

Legend: I training images, J test images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mage_kit.evaluation.features import Features

NEIGHBOURS = (5, 10, 20, 50, 100)
TEMPERATURE = 0.07
_AT_ONCE = 512  # test images


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
    known = F.normalize(torch.from_numpy(train.values_ID).to(device or "cpu"), dim=1)
    labels = torch.from_numpy(train.labels_I).to(known.device)
    counts = [count for count in counts if count <= len(labels)] or [len(labels)]
    hits = dict.fromkeys(counts, 0)
    for start in range(0, len(test.labels_I), _AT_ONCE):
        part = F.normalize(torch.from_numpy(test.values_ID[start : start + _AT_ONCE]).to(known.device), dim=1)
        wanted = torch.from_numpy(test.labels_I[start : start + _AT_ONCE]).to(known.device)
        similarity, places = (part @ known.T).topk(max(counts), dim=1)
        votes, told = (similarity / TEMPERATURE).exp(), labels[places]
        for count in counts:
            scores = torch.zeros(len(part), classes, device=known.device)
            scores.scatter_add_(1, told[:, :count], votes[:, :count])
            hits[count] += int((scores.argmax(dim=1) == wanted).sum())
    return {count: found / len(test.labels_I) for count, found in hits.items()}
