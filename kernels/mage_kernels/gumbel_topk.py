"""The decoding step: sample a token and its log-probability, and keep the lowest-scored positions masked.

Legend: B images, L tokens, V codes. Paper: supplement, "Generation". All randomness comes in as noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TOP = 1e300  # above every real score, below the +inf of known tokens


def gumbel(uniform: Tensor) -> Tensor:
    """Turn uniform numbers in (0, 1) into standard Gumbel noise, float32.

    Computed in float64 as -log(-log u): with 52 random bits it reaches 36, where float32 noise stops near 21.5.
    """
    return -torch.log(-torch.log(uniform.to(torch.float64))).to(torch.float32)


def sample_tokens(logits_BLV: Tensor, uniform_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one code a position by inverse CDF, with one uniform number each.

    Args:
        logits_BLV: Logits over the codes; computed on in float32.
        uniform_BL: Numbers in (0, 1).

    Returns:
        ids_BL (int64) and the sampled codes' log-probabilities (float32).

    Raises:
        ValueError: If a logit is NaN or +inf, or a row has no finite logit: never a black picture in silence.
    """
    log_p_BLV = logits_BLV.to(torch.float32).log_softmax(dim=-1)
    if bool(torch.isnan(log_p_BLV).any()):
        raise ValueError("logits: not finite, must be numbers (or -inf for a code that may not be drawn)")
    cdf_BLV = log_p_BLV.to(torch.float64).exp().cumsum(dim=-1)
    # Scaling by the last entry keeps the draw inside the support whatever the rounding of the sum.
    target_BL1 = uniform_BL.to(torch.float64)[..., None] * cdf_BLV[..., -1:]
    ids_BL1 = torch.searchsorted(cdf_BLV.contiguous(), target_BL1, right=True)
    ids_BL1 = ids_BL1.clamp_max(log_p_BLV.shape[-1] - 1)
    return ids_BL1[..., 0], log_p_BLV.gather(-1, ids_BL1)[..., 0]


def remask(score_BL: Tensor, masked_BL: Tensor, count_B: Tensor) -> Tensor:
    """Return the next mask: exactly `count_B` positions a row stay masked, those of the lowest scores.

    Known positions can never be chosen, whatever their score; ties are broken by the index.

    Args:
        score_BL: Confidence; read at masked positions only. NaN counts as the highest.
        masked_BL: bool, True where the token is unknown.
        count_B: int64, at most the number of masked positions of the row.
    """
    keyed_BL = torch.where(masked_BL, score_BL.to(torch.float64).nan_to_num(_TOP, _TOP, -_TOP), torch.inf)
    order_BL = keyed_BL.argsort(dim=1, stable=True)
    place_BL = torch.arange(score_BL.shape[1], device=score_BL.device).expand_as(order_BL)
    rank_BL = torch.empty_like(order_BL).scatter_(1, order_BL, place_BL)
    return masked_BL & (rank_BL < count_B[:, None])
