"""Re-masking: exactly k unknown positions a row stay masked, those of the lowest scores.

A position's rank is the number of unknown ones before it in the order (score, index), which no two share: of positions
with equal scores those of lower index stay masked, and the count is exact, where a threshold at the k-th score would
mask every position that ties with it. Known positions are given a score above every real one, and the mask is taken
once more at the end, so that no rank, however many are asked for, can reach them.

Three forms: `triton` counts ranks in one launch, `torch` sorts, `reference` sorts row by row in Python.

Legend: B images, L tokens. Paper: supplement, "Generation".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mage_kernels.backend import Backend, choose

_TOP = 1e300  # above every real score, below the +inf of known tokens


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
    choice = choose("remask", backend, score_BL.device, score_BL.dtype, score_BL.shape[1], probe)
    return _FORMS[choice.implementation](score_BL, masked_BL, count_B)


def _torch(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    keyed_BL = torch.where(masked, score.to(torch.float64).nan_to_num(_TOP, _TOP, -_TOP), torch.inf)
    order_BL = keyed_BL.argsort(dim=1, stable=True)
    place_BL = torch.arange(score.shape[1], device=score.device).expand_as(order_BL)
    rank_BL = torch.empty_like(order_BL).scatter_(1, order_BL, place_BL)
    return masked & (rank_BL < count[:, None])


def _reference(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    out = torch.zeros_like(masked)
    for image, number in enumerate(count.tolist()):
        places = masked[image].nonzero()[:, 0].tolist()
        values = score[image].nan_to_num(float("inf"), float("inf"), float("-inf")).tolist()
        places.sort(key=lambda place, own=values: (own[place], place))  # type: ignore[misc]  # a default is not inferred
        out[image, places[: max(0, number)]] = True
    return out


def _triton(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    from mage_kernels.triton import remask_kernel as launched

    out: Tensor = launched.remask(score, masked, count)
    return out


def probe(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> list[Tensor]:
    """Run one form on a row with ties, a known position and fewer to mask than there are; return the mask."""
    place = torch.arange(width, device=device)
    score, masked = (place % 3).to(dtype)[None], (place % 5 != 1)[None]
    return [_FORMS[implementation](score, masked, torch.tensor([width // 2], device=device))]


_FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "triton": _triton,
    "torch": _torch,
    "reference": _reference,
}
