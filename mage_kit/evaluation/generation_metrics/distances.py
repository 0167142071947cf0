"""Inception score, kernel distance, precision and recall. Legend: I images, J real ones, D features, K classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.draws import derive

NEIGHBOURS = 3
_SUBSETS, _SUBSET = 100, 1000
_AT_ONCE = 1024
_SPLITS = 10


def inception_score(logits_IK: Tensor, splits: int = _SPLITS, seed: int = 0) -> tuple[float, float]:
    """Return mean and deviation over splits of exp(mean KL(p(y|x) || p(y))) (Salimans et al., 2016).

    Args:
        logits_IK: Of a classifier.
        splits: Parts of the images, drawn at random.
        seed: Of the draw.
    """
    random = np.random.Generator(np.random.PCG64(derive(seed, "inception-score")))
    order = torch.from_numpy(random.permutation(len(logits_IK)))
    log_p = logits_IK[order].double().log_softmax(dim=1)
    scores = []
    for part in log_p.chunk(min(splits, len(log_p))):
        marginal = part.exp().mean(dim=0, keepdim=True)
        scores.append((part.exp() * (part - marginal.log())).sum(dim=1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def kernel_distance(
    made_ID: Tensor, real_JD: Tensor, *, subsets: int = _SUBSETS, size: int = _SUBSET, seed: int = 0
) -> tuple[float, float]:
    """Return mean and deviation over subsets of the squared MMD, kernel (x y / D + 1)^3, unbiased (KID; Binkowski et
    al., 2018).

    Args:
        made_ID: Features of generated images.
        real_JD: Features of real ones.
        subsets: How many.
        size: Images in each, of either kind; fewer where there are fewer.
        seed: Of the draws.
    """
    size = min(size, len(made_ID), len(real_JD))
    random = np.random.Generator(np.random.PCG64(derive(seed, "kid")))
    distances = []
    for _ in range(subsets):
        parts = []
        for features in (made_ID, real_JD):
            places = random.choice(len(features), size, replace=False)
            parts.append(features[torch.from_numpy(places).to(features.device)].double())
        distances.append(_squared_mmd(*parts))
    return float(np.mean(distances)), float(np.std(distances))


def _squared_mmd(x: Tensor, y: Tensor) -> float:
    count, width = x.shape
    xx, yy, xy = ((a @ b.T / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (count * (count - 1))
    return float(within - 2 * xy.mean())


def precision_recall(made_ID: Tensor, real_JD: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return the share of generated images within the real ones' manifold, and the other way about (Kynkaanniemi et
    al., 2019): a point is within if it lies no farther from some image than that image's k-th neighbour of its kind.

    Args:
        made_ID: Features of generated images.
        real_JD: Features of real ones.
        neighbours: k.

    Raises:
        ValueError: If there are not more than k images of each kind.
    """
    if min(len(made_ID), len(real_JD)) <= neighbours:
        raise ValueError(f"images: {min(len(made_ID), len(real_JD))}, must be more than the neighbours ({neighbours})")
    return _within(made_ID, real_JD, neighbours), _within(real_JD, made_ID, neighbours)


def _within(points: Tensor, manifold: Tensor, neighbours: int) -> float:
    points, manifold = points.double(), manifold.double()
    radii = torch.cat(
        [torch.cdist(part, manifold).kthvalue(neighbours + 1).values for part in manifold.split(_AT_ONCE)]
    )
    inside = [(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(_AT_ONCE)]
    return float(torch.cat(inside).double().mean())


def as_dict(measures: dict[str, Any]) -> dict[str, Any]:
    """Return (mean, deviation) pairs as {"mean", "std"}, ready for JSON."""
    return {
        name: {"mean": value[0], "std": value[1]} if isinstance(value, tuple) else value
        for name, value in measures.items()
    }
