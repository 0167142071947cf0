"""Sampling: one code a position by inverse CDF, with its log-probability. All randomness comes in as noise.

Three forms: `triton` reads the logits of unknown positions once and no others, `torch` searches the cumulated sum,
`reference` walks the codes.

Legend: B images, L tokens, V codes. Paper: supplement, "Generation".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mage_kernels.backend import Backend, choose


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
    choice = choose("sample_tokens", backend, logits_BLV.device, logits_BLV.dtype, logits_BLV.shape[2], probe)
    ids_BL, log_p_BL = _FORMS[choice.implementation](logits_BLV, uniform_BL, masked_BL)
    if check and bool(torch.isnan(log_p_BL).any()):
        raise ValueError("logits: not finite, must be numbers (or -inf for a code that may not be drawn)")
    return ids_BL, log_p_BL


def _torch(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    log_p_BLV = logits.to(torch.float32).log_softmax(dim=-1)
    cdf_BLV = log_p_BLV.to(torch.float64).exp().cumsum(dim=-1)
    # Scaling by the last entry keeps the draw inside the support whatever the rounding of the sum.
    target_BL1 = uniform.to(torch.float64)[..., None] * cdf_BLV[..., -1:]
    ids_BL1 = torch.searchsorted(cdf_BLV.contiguous(), target_BL1, right=True)
    ids_BL1 = ids_BL1.clamp_max(log_p_BLV.shape[-1] - 1)
    if logits.is_cuda:
        ids_BL1 = allowed(ids_BL1, log_p_BLV)
    log_p_BL = log_p_BLV.gather(-1, ids_BL1)[..., 0]
    return ids_BL1[..., 0], torch.where(masked, log_p_BL, 0.0)


def allowed(ids_BL1: Tensor, log_p_BLV: Tensor) -> Tensor:
    """Return the ids, the most likely one in place of a code of no weight.

    A GPU adds running sums in a tree: they may fall by a unit of rounding where nothing was added, and a search in them
    may end there (some 10^-13 of the draws in float64).
    """
    forbidden_BL1 = log_p_BLV.gather(-1, ids_BL1) == -torch.inf
    return torch.where(forbidden_BL1, log_p_BLV.argmax(dim=-1, keepdim=True), ids_BL1)


def _reference(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    log_p_BLV = logits.to(torch.float64).log_softmax(dim=-1)
    ids_BL, chosen_BL = torch.zeros_like(masked, dtype=torch.int64), torch.zeros(masked.shape, dtype=torch.float64)
    for image, place in masked.nonzero().tolist():
        below, target, pick = 0.0, float(uniform[image, place]), (0, 0.0)
        for code, log_p in enumerate(log_p_BLV[image, place].tolist()):
            if log_p == float("-inf"):
                continue
            below += math.exp(log_p)
            pick = code, log_p
            if target < below:
                break
        ids_BL[image, place], chosen_BL[image, place] = pick
    return ids_BL, chosen_BL.to(torch.float32).to(logits.device)


def _triton(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    from mage_kernels.triton import sample_kernel as launched

    ids, log_p = launched.sample_tokens(logits, uniform, masked)
    return ids, log_p


def probe(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> list[Tensor]:
    """Run one form on rows whose answers no rounding moves; return ids and log-probabilities.

    One code holds nearly all weight; and of two that share it, with all others forbidden, the second is drawn.
    """
    logits = torch.full((1, 2, width), -torch.inf, dtype=dtype, device=device)
    logits[0, 0] = 0
    logits[0, 0, width // 2] = 40
    logits[0, 1, :: max(1, width - 1)] = 1
    uniform = torch.tensor([[0.5, 0.75]], device=device)
    return list(_FORMS[implementation](logits, uniform, uniform > 0))


_FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "triton": _triton,
    "torch": _torch,
    "reference": _reference,
}
