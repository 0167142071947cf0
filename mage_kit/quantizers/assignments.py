"""Entropies of soft assignments: each feature sure of its code, all codes used alike (MaskGIT, MAGVIT-v2, IBQ).

With p(v|z) = softmax over v of the logits of a feature z, the loss is E[H(p)] - H(E[p]): 0 where every p is uniform,
-ln V where features are sure and spread evenly over V codes. Both means go over all features of the batch; the second
entropy is not linear, so E[p] is averaged over processes before it is taken.

Legend: V codes, W code width, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mage_kit.base.processes import add_up, world

ROWS = 2**22  # logits at once: 16 MiB of float32, and some six times that while gradients are computed


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy, in nats, of shares (..., V) that sum to 1; 0 ln 0 is 0."""
    return -torch.xlogy(shares, shares).sum(dim=-1)


def soft_choices(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums over rows of the entropies of softmax(logits), a scalar in nats, and of its shares (V,).

    The gradient is finite however sure a row is.
    """
    logs_RV = torch.log_softmax(logits_RV, dim=-1)
    shares_RV = logs_RV.exp()
    return -(shares_RV * logs_RV).sum(), shares_RV.sum(dim=0)


def over_processes(mean: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, with the gradient that is right once engines average.

    For a function g of the mean m = (1/P) sum m_p, the gradient through m_p is g'(m) / P. Engines take the mean of the
    processes' gradients, which divides by P already: here m_p gets g'(m).
    """
    if world() == 1:
        return mean
    return mean + (add_up(mean.detach().clone()) / world() - mean.detach())


def entropy_gap(sure: Tensor, shares_V: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[H(p)] - H(E[p]), and the detached perplexity of the mean assignment, exp of the second.

    Args:
        sure: Scalar: this process's mean of H(p).
        shares_V: This process's mean of p; sums to 1.
    """
    spread = entropy(over_processes(shares_V))
    return sure - spread, spread.detach().exp()


def in_parts(work: Callable[[Tensor], tuple[Tensor, ...]], features_FW: Tensor, codes: int) -> list[tuple[Tensor, ...]]:
    """Apply a function to some features at a time; its tables are not kept for the gradient but made again.

    Args:
        work: Takes features (R, W), makes tables of (R, V).
        features_FW: All features.
        codes: Columns of a table, V.
    """
    parts = features_FW.split(max(1, ROWS // codes))
    if len(parts) == 1:
        return [work(features_FW)]
    return [checkpoint(work, part, use_reentrant=False) for part in parts]


def assignment_gap(logits_of: Callable[[Tensor], Tensor], features_FW: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Return `entropy_gap` of features whose logits come from a table.

    Args:
        logits_of: Features (R, W) to logits (R, V).
        features_FW: All features of this process.
        codes: V.
    """
    sums = in_parts(lambda part_RW: soft_choices(logits_of(part_RW)), features_FW, codes)
    count = len(features_FW)
    sure = torch.stack([part[0] for part in sums]).sum() / count
    return entropy_gap(sure, torch.stack([part[1] for part in sums]).sum(dim=0) / count)
