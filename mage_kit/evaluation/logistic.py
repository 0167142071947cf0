"""Multinomial logistic regression on frozen features by L-BFGS, on any device, in parts that fit in memory.

Legend: I images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.base.draws import derive
from mage_kit.base.errors import MageKitError

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
_AT_ONCE = 65_536  # images
_ITERATIONS = 200
_FEWEST = 5  # training images
_SMALLEST = 1e-6  # deviation of a feature, below which it says nothing


@dataclass(frozen=True)
class FittedClassifier:
    """A fitted classifier: standardise, then a linear layer.

    Args:
        mean_D: Of the training features.
        scale_D: One over their deviation; 0 where they are all the same.
        weight_KD: float64.
        bias_K: float64.
    """

    mean_D: Tensor
    scale_D: Tensor
    weight_KD: Tensor
    bias_K: Tensor

    def scores(self, values_ID: np.ndarray) -> np.ndarray:
        """Return logits (I, K), float64."""
        return torch.cat([scores.cpu() for scores in self._parts(values_ID)]).numpy()

    def accuracy(self, values_ID: np.ndarray, labels_I: np.ndarray) -> float:
        """Return the share of images whose likeliest class is theirs."""
        guesses = torch.cat([scores.argmax(dim=1).cpu() for scores in self._parts(values_ID)])
        return float((guesses.numpy() == labels_I).mean())

    def _parts(self, values_ID: np.ndarray) -> Iterator[Tensor]:
        for part in torch.from_numpy(values_ID).split(_AT_ONCE):
            values = part.to(self.weight_KD.device).double()
            yield F.linear((values - self.mean_D) * self.scale_D, self.weight_KD, self.bias_K)


def fit_logistic(
    values_ID: np.ndarray,
    labels_I: np.ndarray,
    classes: int,
    strength: float = 1.0,
    *,
    device: torch.device | None = None,
) -> FittedClassifier:
    """Minimise strength x (sum of cross-entropies) + |weights|^2 / 2 over standardised features; biases are free.

    Args:
        values_ID: float32 features.
        labels_I: int64.
        classes: How many, K.
        strength: Inverse regularisation, C of scikit-learn.
        device: Where to compute; None for the CPU.

    Raises:
        MageKitError: If there are fewer than two classes among the labels, or a feature is not finite.
    """
    if len(np.unique(labels_I)) < 2:
        raise MageKitError("labels: a single class, a classifier needs at least two")
    if not np.isfinite(values_ID).all():
        raise MageKitError("features: not finite; the model's weights are damaged or its training diverged")
    device = device or torch.device("cpu")
    values, labels = _near(torch.from_numpy(values_ID), device), torch.from_numpy(labels_I).to(device)
    parts = list(zip(values.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True))
    mean_D = torch.stack([part.to(device).double().sum(dim=0) for part, _ in parts]).sum(dim=0) / len(values)
    squares = torch.stack([(part.to(device).double() - mean_D).square().sum(dim=0) for part, _ in parts]).sum(dim=0)
    deviation_D = (squares / len(values)).sqrt()
    scale_D = torch.where(deviation_D > _SMALLEST, 1 / deviation_D.clamp_min(_SMALLEST), 0.0)
    weight = torch.zeros(classes, values.shape[1] + 1, dtype=torch.float64, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=_ITERATIONS, history_size=20, tolerance_grad=1e-7, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = weight[:, :-1].square().sum() / (2 * strength * len(values))
        total.backward()
        for part_ID, told_I in parts:
            logits = F.linear((part_ID.to(device).double() - mean_D) * scale_D, weight[:, :-1], weight[:, -1])
            part = F.cross_entropy(logits, told_I, reduction="sum") / len(values)
            part.backward()
            total = total + part.detach()
        return total.detach()

    optimizer.step(loss)
    solution = weight.detach()
    return FittedClassifier(mean_D, scale_D, solution[:, :-1].contiguous(), solution[:, -1].contiguous())


def _near(values_ID: Tensor, device: torch.device) -> Tensor:
    """Return features on the device where they leave room there; else on the CPU, from which parts are sent."""
    if device.type == "cuda" and values_ID.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return values_ID
    return values_ID.to(device)


@dataclass(frozen=True)
class Best:
    """A classifier and how its strength was chosen.

    Args:
        model: Fitted to all training images.
        strength: Inverse regularisation.
        validation: Its accuracy on a fifth of the training images, fitted to the rest.
    """

    model: FittedClassifier
    strength: float
    validation: float


def fit_best(
    values_ID: np.ndarray,
    labels_I: np.ndarray,
    classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    device: torch.device | None = None,
) -> Best:
    """Choose the strength on a fifth of the training images (no test image has a say), then fit to all.

    Args:
        values_ID: float32 features.
        labels_I: int64.
        classes: How many.
        strengths: Tried.
        seed: Of the fifth that is set aside.
        device: Where to compute.

    Raises:
        MageKitError: If there are too few images.
    """
    order = np.random.Generator(np.random.PCG64(derive(seed, "probe-validation"))).permutation(len(labels_I))
    if len(order) < _FEWEST:
        raise MageKitError(f"training images: {len(order)}, must be at least {_FEWEST} to choose a strength")
    aside, rest = order[: len(order) // 5], order[len(order) // 5 :]
    alone = np.isin(labels_I[aside], labels_I[rest], invert=True)  # a class that would not be learned at all
    aside, rest = aside[~alone], np.concatenate([rest, aside[alone]])
    if not len(aside):
        raise MageKitError("training images: none can be set aside to choose a strength, each class has one")
    accuracies = {
        strength: fit_logistic(values_ID[rest], labels_I[rest], classes, strength, device=device).accuracy(
            values_ID[aside], labels_I[aside]
        )
        for strength in strengths
    }
    best = max(accuracies, key=lambda strength: accuracies[strength])
    return Best(fit_logistic(values_ID, labels_I, classes, best, device=device), best, accuracies[best])
