"""Token drop: gather the kept positions, in whole rows, with a gradient that scatters nothing.

Legend: B images, N = 1 + L positions (class first), S = 1 + kept tokens, D width, M rows, K rows wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mage_kernels.autocasting import without_autocast


def drop_tokens(values_BND: Tensor, kept_BS: Tensor) -> Tensor:
    """Gather the kept positions: (B, N, D), (B, S) -> (B, S, D).

    Position 0 may be named any number of times, every other once at most: the gradient relies on it.
    """
    kept_BSD: Tensor = _Rows.apply(values_BND, kept_BS)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return kept_BSD


class _Rows(torch.autograd.Function):
    """Rows (B, M, E) by index (B, K), whole rows at a time; in the gradient a row is looked up, nothing is scattered.

    Row 0 may be wanted any number of times, every other once at most.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = values.shape[1]
        return _whole_rows(values, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        place = torch.arange(index.shape[1], device=index.device).expand_as(index)
        where = torch.full((len(index), ctx.count), -1, device=index.device).scatter_(1, index, place)
        out = _whole_rows(grad, where.clamp(min=0)) * (where >= 0)[:, :, None].to(grad.dtype)
        with without_autocast(grad):
            out[:, :1] = (index == 0).to(grad.dtype)[:, None] @ grad
        return out, None


def _whole_rows(values: Tensor, index: Tensor) -> Tensor:
    """torch.gather walks value by value, which is forty times slower on a CPU."""
    batch, count, width = values.shape
    flat = index + count * torch.arange(batch, device=index.device)[:, None]
    return values.reshape(batch * count, width).index_select(0, flat.flatten()).view(*index.shape, width)
