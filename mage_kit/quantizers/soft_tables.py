"""Softmax over all codes of many features: sums and means of it, in memory that does not grow with either.

The logits of a feature z are z . k_v + b_v. A table of them, of F features by V codes, is made some rows at a time, in
buffers that every part uses again, and made again for the gradient. Left to autograd it would be kept, and left to an
allocator its parts would not fit the holes that earlier ones leave: both were 2 GiB an image at 2^18 codes.

With l = log p, H = -sum_v p l and the gradients S' of sum H and s' of sum p,

    dL/dlogits = p (s' - m - S' (l + H)),   m = sum_v p s',

and with the gradient M' (R, W) of the means p C, C without a gradient here, G = M' C^T,

    dL/dlogits = p (G - sum_v p G).

Legend: V codes, W code width, F features, R rows of a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 2**22  # logits at once: 16 MiB of float32 in each of two buffers, or three


def soft_sums(features_FW: Tensor, keys_VW: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum over features of the entropies of their shares, a scalar in nats, and of the shares (V,).

    Args:
        features_FW: z.
        keys_VW: k.
        bias_V: b.
    """
    sums: tuple[Tensor, Tensor] = _SoftSums.apply(features_FW, keys_VW, bias_V)  # type: ignore[no-untyped-call]  # torch's
    return sums


def soft_means(features_FW: Tensor, codes_VW: Tensor) -> Tensor:
    """Return the means (F, W) of codes by softmax(z . c); the gradient goes through the shares alone."""
    means: Tensor = _SoftMeans.apply(features_FW, codes_VW)  # type: ignore[no-untyped-call]  # torch's
    return means


class _SoftSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_FW: Tensor, keys_VW: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features_FW, keys_VW, bias_V)
        sure, shares_V = features_FW.new_zeros(()), torch.zeros_like(bias_V)
        for part, (logs_RV, shares_RV) in _tables(features_FW, keys_VW, 2):
            _fill(logs_RV, shares_RV, features_FW[part], keys_VW, bias_V)
            sure -= torch.dot(shares_RV.flatten(), logs_RV.flatten())
            shares_V += shares_RV.sum(dim=0)
        return sure, shares_V

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sure: Tensor, of_shares_V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features_FW, keys_VW, bias_V = ctx.saved_tensors
        grads = torch.empty_like(features_FW), torch.zeros_like(keys_VW), torch.zeros_like(bias_V)
        for part, (logs_RV, shares_RV) in _tables(features_FW, keys_VW, 2):
            rows_RW = features_FW[part]
            _fill(logs_RV, shares_RV, rows_RW, keys_VW, bias_V)
            entropy_R = -torch.linalg.vecdot(shares_RV, logs_RV)
            mean_R = shares_RV @ of_shares_V
            logs_RV.add_(entropy_R[:, None]).mul_(-of_sure).add_(of_shares_V).sub_(mean_R[:, None]).mul_(shares_RV)
            _spread(grads, part, logs_RV, rows_RW, keys_VW)
            grads[2].add_(logs_RV.sum(dim=0))
        return grads


class _SoftMeans(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_FW: Tensor, codes_VW: Tensor) -> Tensor:
        ctx.save_for_backward(features_FW, codes_VW)
        means_FW, none_V = torch.empty_like(features_FW), codes_VW.new_zeros(len(codes_VW))
        for part, (logs_RV, shares_RV) in _tables(features_FW, codes_VW, 2):
            _fill(logs_RV, shares_RV, features_FW[part], codes_VW, none_V)
            torch.mm(shares_RV, codes_VW, out=means_FW[part])
        return means_FW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means_FW: Tensor) -> tuple[Tensor, Tensor]:
        features_FW, codes_VW = ctx.saved_tensors
        none_V = codes_VW.new_zeros(len(codes_VW))
        grads = torch.empty_like(features_FW), torch.zeros_like(codes_VW)
        for part, (logs_RV, shares_RV) in _tables(features_FW, codes_VW, 2):
            rows_RW = features_FW[part]
            _fill(logs_RV, shares_RV, rows_RW, codes_VW, none_V)
            torch.mm(of_means_FW[part], codes_VW.T, out=logs_RV)
            logs_RV.sub_(torch.linalg.vecdot(shares_RV, logs_RV)[:, None]).mul_(shares_RV)
            _spread(grads, part, logs_RV, rows_RW, codes_VW)
        return grads


def _tables(features_FW: Tensor, keys_VW: Tensor, count: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield places of some features, and buffers (R, V) for them, which are the same in every part."""
    codes = len(keys_VW)
    rows = min(len(features_FW), max(1, ROWS // codes))
    buffers = [features_FW.new_empty(rows, codes) for _ in range(count)]
    for start in range(0, len(features_FW), rows):
        part = slice(start, min(start + rows, len(features_FW)))
        yield part, [buffer[: part.stop - start] for buffer in buffers]


def _fill(logs_RV: Tensor, shares_RV: Tensor, rows_RW: Tensor, keys_VW: Tensor, bias_V: Tensor) -> None:
    """Fill the buffers with log p and p."""
    torch.addmm(bias_V, rows_RW, keys_VW.T, out=logs_RV)
    logs_RV.sub_(logs_RV.amax(dim=1, keepdim=True))
    torch.exp(logs_RV, out=shares_RV)
    totals_R1 = shares_RV.sum(dim=1, keepdim=True)
    shares_RV.div_(totals_R1)
    logs_RV.sub_(totals_R1.log())


def _spread(grads: tuple[Tensor, ...], part: slice, of_logits_RV: Tensor, rows_RW: Tensor, keys_VW: Tensor) -> None:
    """Take gradients of logits on to features and keys."""
    torch.mm(of_logits_RV, keys_VW, out=grads[0][part])
    grads[1].addmm_(of_logits_RV.T, rows_RW)
