"""Dropout with cheap masks: on a CPU a random word serves several values, where torch draws one a value."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mage_kernels.random_words import random_words

_LEVELS = 1 << 15
_LANES = 0x0001_0001_0001_0001  # four values of 16 bits in a word of 64


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero values with a probability and scale the rest by its inverse complement.

    On a CPU the probability is rounded to a multiple of 2^-15 and the scale follows the rounded value, so that the mean
    is kept exactly; elsewhere torch's own dropout runs. Draws come from torch's global generator.

    Args:
        x: Any floating tensor.
        probability: In [0, 1).
    """
    if not cheap(x, probability):
        return F.dropout(x, probability)
    out: Tensor = _Masked.apply(  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
        x, keep_mask(x, probability), keep_scale(probability)
    )
    return out


def cheap(x: Tensor, probability: float) -> bool:
    """Whether the cheap masks serve here: on a CPU, in eager mode, at 15 bits of probability."""
    return x.device.type == "cpu" and _threshold(probability) > 0 and not torch.compiler.is_compiling()


def keep_scale(probability: float) -> float:
    """Return what kept values are multiplied with; a Python number: in bfloat16 it would move the mean by 0.2%."""
    return _LEVELS / (_LEVELS - _threshold(probability))


def keep_mask(x: Tensor, probability: float) -> Tensor:
    """Return int16 of x's shape: all bits set where a value is kept, none where it is dropped."""
    # Four values at a time, u of 15 bits each: u + 2^15 - threshold has its highest bit where u is kept, and carries
    # nothing into the next value. That bit is spread over all: comparing gives bool, which is slow to convert.
    raised = (_LEVELS - _threshold(probability)) * _LANES
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    for part in random_words(words):
        part.bitwise_and_((_LEVELS - 1) * _LANES).add_(raised)
        part.view(torch.int16).bitwise_right_shift_(15)
    return words.view(torch.int16)[: x.numel()].view(x.shape)


def _threshold(probability: float) -> int:
    """Of 2^15 levels, how many drop; never all."""
    return min(round(probability * _LEVELS), _LEVELS - 1)


def apply_mask(x: Tensor, mask: Tensor) -> Tensor:
    """Return x (any floating dtype) with the values dropped that the mask drops; no scale."""
    if x.element_size() == 2:
        return (x.view(torch.int16) & mask).view(x.dtype)
    return x * mask.to(x.dtype).neg_()


class _Masked(torch.autograd.Function):
    """(x where the mask keeps it, else 0) x scale; the mask is saved as 16 bits a value."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.save_for_backward(mask)
        return apply_mask(x, mask).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return apply_mask(grad, mask).mul_(ctx.scale), None, None
