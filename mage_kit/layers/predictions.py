"""Predictions of tokens: how they are drawn from, what was drawn, what they cost against targets.

Legend: B images, L tokens, M rows (masked tokens), V codes, F ids a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from mage_kernels import Backend
from torch import Tensor


@dataclass(frozen=True)
class DrawRule:
    """How tokens are drawn.

    Args:
        temperature: Of the draw; 0 takes the likeliest.
        top_k: Likeliest codes that a token may take; None for all.
        top_p: Probability that they add up to, at least; None for all.
        reads_predictions: Whether `Predictions` are wanted too, which cost another pass over the logits.
        backend: Which kernels run.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    reads_predictions: bool = False
    backend: Backend = "auto"


@dataclass(frozen=True)
class Predictions:
    """What the model predicts for each token; meaningless at known positions.

    Args:
        first_BL: float32 probability of the likeliest code.
        second_BL: float32 probability of the next one.
        entropy_BL: float32 entropy of the prediction, in nats.
    """

    first_BL: Tensor
    second_BL: Tensor
    entropy_BL: Tensor


@dataclass(frozen=True)
class TokenDraw:
    """What was drawn; 0 at known positions.

    Args:
        ids_BL: int64 ids (B, L), or (B, L, F) where a token has F of them; float32 values (B, L, W) of a stream without
            codes.
        log_p_BL: float32 log-probability of each under the model at temperature 1, guidance included, nothing cut off.
        predictions: Where asked for.
    """

    ids_BL: Tensor
    log_p_BL: Tensor
    predictions: Predictions | None


@dataclass(frozen=True)
class LossRows:
    """What predictions cost against targets.

    Args:
        rows_M: Loss of each row, with a gradient.
        hits_M: 1 where the likeliest code is the target, detached; None where that means nothing.
    """

    rows_M: Tensor
    hits_M: Tensor | None = None


def cross_entropy_rows(logits_MX: Tensor, targets_M: Tensor, smoothing: float) -> LossRows:
    """Return (1 - s) NLL - s mean log-probability of each row, summed over the ids of a token.

    Args:
        logits_MX: Logits (M, V), or (M, F V) where a token has F ids.
        targets_M: Ids (M,), or (M, F); a hit has all of them right.
        smoothing: s, in [0, 1).
    """
    logits = logits_MX.float()
    if targets_M.ndim == 2:
        logits = logits.unflatten(1, (targets_M.shape[1], -1))
    log_p = F.log_softmax(logits, dim=-1)
    nll = -log_p.gather(-1, targets_M[..., None])[..., 0]
    rows = (1 - smoothing) * nll - smoothing * log_p.mean(dim=-1)
    hits = log_p.detach().argmax(dim=-1) == targets_M
    if targets_M.ndim == 2:
        rows, hits = rows.sum(dim=1), hits.all(dim=1)
    return LossRows(rows, hits.float())


@dataclass(frozen=True)
class PassCost:
    """What a part costs the planner in a pass, beside its linear layers and norms, which are counted by themselves.

    Args:
        forward: Operations of the forward pass.
        backward: Those of the backward pass, as a multiple.
        stored: Bytes that it needs until then.
    """

    forward: float = 0.0
    backward: float = 2.0
    stored: float = 0.0
