"""The decoding step: sample a token and its log-probability, and keep the lowest-scored positions masked.

Three forms each: `triton` reads the logits of unknown positions once and no others, `torch` sorts, `reference` spells
it out. All randomness comes in as noise.

Legend: B images, L tokens, V codes. Paper: supplement, "Generation".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mage_kernels.backend import Backend, choose

_TOP = 1e300  # above every real score, below the +inf of known tokens


def gumbel(uniform: Tensor) -> Tensor:
    """Turn uniform numbers in (0, 1) into standard Gumbel noise, float32.

    Computed in float64 as -log(-log u): with 52 random bits it reaches 36, where float32 noise stops near 21.5.
    """
    return -torch.log(-torch.log(uniform.to(torch.float64))).to(torch.float32)


def sample_tokens(
    logits_BLV: Tensor,
    uniform_BL: Tensor,
    masked_BL: Tensor | None = None,
    *,
    backend: Backend = "auto",
    check: bool = True,
) -> tuple[Tensor, Tensor]:
    """Sample one code a position by inverse CDF, with one uniform number each.

    Args:
        logits_BLV: Logits over the codes; computed on in float32.
        uniform_BL: Numbers in (0, 1).
        masked_BL: bool, the positions to sample; None for all. At others the result holds nothing of use.
        backend: Which implementation runs.
        check: Read back whether all went well and raise if not; without it, NaN among the log-probabilities says so.

    Returns:
        ids_BL (int64) and the sampled codes' log-probabilities (float32).

    Raises:
        ValueError: If shapes differ, a uniform number lies outside (0, 1), a logit is NaN or +inf, or a row has no
            finite logit: never a black picture in silence. Or if the backend is unknown or cannot run here.
    """
    if uniform_BL.shape != logits_BLV.shape[:-1]:
        raise ValueError(f"uniform: {tuple(uniform_BL.shape)}, must be {tuple(logits_BLV.shape[:-1])}: one a position")
    if check and bool(((uniform_BL <= 0) | (uniform_BL >= 1) | uniform_BL.isnan()).any()):
        raise ValueError("uniform: a number outside (0, 1), where it would draw a code that may not be drawn")
    masked_BL = torch.ones_like(uniform_BL, dtype=torch.bool) if masked_BL is None else masked_BL
    choice = choose("sample_tokens", backend, logits_BLV.device, logits_BLV.dtype, logits_BLV.shape[2], _probe_sample)
    ids_BL, log_p_BL = _SAMPLE[choice.implementation](logits_BLV, uniform_BL, masked_BL)
    if check and bool(torch.isnan(log_p_BL).any()):
        raise ValueError("logits: not finite, must be numbers (or -inf for a code that may not be drawn)")
    return ids_BL, log_p_BL


def remask(score_BL: Tensor, masked_BL: Tensor, count_B: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Return the next mask: exactly `count_B` positions a row stay masked, those of the lowest scores.

    Known positions can never be chosen, whatever their score; ties are broken by the index.

    Args:
        score_BL: Confidence; read at masked positions only. NaN counts as the highest.
        masked_BL: bool, True where the token is unknown.
        count_B: int64; more than the row's masked positions keeps them all, less than 0 none.
        backend: Which implementation runs.

    Raises:
        ValueError: If the backend is unknown or cannot run here.
    """
    choice = choose("remask", backend, score_BL.device, score_BL.dtype, score_BL.shape[1], _probe_remask)
    return _REMASK[choice.implementation](score_BL, masked_BL, count_B)


# -- sampling --------------------------------------------------------------------------------------------------


def _sample_torch(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    log_p_BLV = logits.to(torch.float32).log_softmax(dim=-1)
    cdf_BLV = log_p_BLV.to(torch.float64).exp().cumsum(dim=-1)
    # Scaling by the last entry keeps the draw inside the support whatever the rounding of the sum.
    target_BL1 = uniform.to(torch.float64)[..., None] * cdf_BLV[..., -1:]
    ids_BL1 = torch.searchsorted(cdf_BLV.contiguous(), target_BL1, right=True)
    ids_BL1 = ids_BL1.clamp_max(log_p_BLV.shape[-1] - 1)
    log_p_BL = log_p_BLV.gather(-1, ids_BL1)[..., 0]
    return ids_BL1[..., 0], torch.where(masked, log_p_BL, 0.0)


def _sample_reference(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    log_p_BLV = logits.to(torch.float64).log_softmax(dim=-1)
    ids_BL, chosen_BL = torch.zeros_like(masked, dtype=torch.int64), torch.zeros(masked.shape, dtype=torch.float64)
    for image, place in masked.nonzero().tolist():
        below, target, drawn = 0.0, float(uniform[image, place]), (0, 0.0)
        for code, log_p in enumerate(log_p_BLV[image, place].tolist()):
            if log_p == float("-inf"):
                continue
            below += math.exp(log_p)
            drawn = code, log_p
            if target < below:
                break
        ids_BL[image, place], chosen_BL[image, place] = drawn
    return ids_BL, chosen_BL.to(torch.float32).to(logits.device)


def _sample_triton(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    from mage_kernels import operators

    ids, log_p = operators.sample_tokens(logits, uniform, masked)
    return ids, log_p


def _probe_sample(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> None:
    logits, uniform = torch.zeros(1, 2, width, dtype=dtype, device=device), torch.full((1, 2), 0.5, device=device)
    _SAMPLE[implementation](logits, uniform, uniform > 0)


_SAMPLE: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "triton": _sample_triton,
    "torch": _sample_torch,
    "reference": _sample_reference,
}


# -- re-masking ------------------------------------------------------------------------------------------------


def _remask_torch(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    keyed_BL = torch.where(masked, score.to(torch.float64).nan_to_num(_TOP, _TOP, -_TOP), torch.inf)
    order_BL = keyed_BL.argsort(dim=1, stable=True)
    place_BL = torch.arange(score.shape[1], device=score.device).expand_as(order_BL)
    rank_BL = torch.empty_like(order_BL).scatter_(1, order_BL, place_BL)
    return masked & (rank_BL < count[:, None])


def _remask_reference(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    out = torch.zeros_like(masked)
    for image, number in enumerate(count.tolist()):
        places = masked[image].nonzero()[:, 0].tolist()
        values = score[image].nan_to_num(float("inf"), float("inf"), float("-inf")).tolist()
        places.sort(key=lambda place, own=values: (own[place], place))  # type: ignore[misc]
        out[image, places[: max(0, number)]] = True
    return out


def _remask_triton(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    from mage_kernels import operators

    out: Tensor = operators.remask(score, masked, count)
    return out


def _probe_remask(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> None:
    score = torch.zeros(1, width, dtype=dtype, device=device)
    _REMASK[implementation](score, score == 0, torch.ones(1, dtype=torch.int64, device=device))


_REMASK: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "triton": _remask_triton,
    "torch": _remask_torch,
    "reference": _remask_reference,
}

PROBES = {"sample_tokens": _probe_sample, "remask": _probe_remask}
