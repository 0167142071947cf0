"""Entropies of soft assignments: each feature sure of its code, all codes used alike (MaskGIT, MAGVIT-v2, IBQ).

With p(v|z) = softmax over v of the logits of a feature z, the loss is E[H(p)] - H(E[p]): 0 where every p is uniform,
-ln V where features are sure and spread evenly over V codes. Both means go over all features of the batch; the second
entropy is not linear, so E[p] is averaged over processes before it is taken.

Legend: V codes, W code width, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mage_kit.base.processes import add_up, world
from mage_kit.quantizers.soft_tables import soft_sums


def entropy(shares: Tensor) -> Tensor:
    """Return the entropy, in nats, of shares (..., V) that sum to 1; 0 ln 0 is 0, and its gradient is finite.

    Of very many codes some are out of every feature's reach, and their shares are exactly 0.
    """
    return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum(dim=-1)


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


def assignment_gap(features_FW: Tensor, keys_VW: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    """Return `entropy_gap` of features z whose logits are z . k_v + b_v.

    Args:
        features_FW: All features of this process.
        keys_VW: k.
        bias_V: b.
    """
    sure, shares_V = soft_sums(features_FW, keys_VW, bias_V)
    return entropy_gap(sure / len(features_FW), shares_V / len(features_FW))
