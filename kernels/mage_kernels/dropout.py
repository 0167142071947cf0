"""Dropout with cheap masks: on a CPU a random word serves several values, where torch draws one a value.

Large masks hash a counter. torch's generator is one thread's work, each draw needing the one before; a hash of i needs
none, and all threads compute it at once. Word i is mix(a i + b), with b and an odd a drawn from torch's generator for
each call: two calls count by other steps, so that no part of one is the other's. The mixing is MurmurHash3's last step,
xor-shifts and odd products, in which half of the output bits change with any input bit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 15
_LANES = 0x0001_0001_0001_0001  # four values of 16 bits in a word of 64
_PART = 1 << 17  # words of 32 bits hashed at once, which stay in a processor's cache; masks of fewer are drawn
_MIX = ((16, -2048144789), (13, -1028477387))  # MurmurHash3's shifts and factors, as signed words


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
    if x.numel() > 2 * _PART:
        _hash(words.view(torch.int32), raised % (1 << 32))
    else:
        words.random_(-(1 << 63), None).bitwise_and_((_LEVELS - 1) * _LANES).add_(raised)
        words.view(torch.int16).bitwise_right_shift_(15)
    return words.view(torch.int16)[: x.numel()].view(x.shape)


def _hash(words: Tensor, raised: int) -> None:
    """Fill int32 words (N,) with two values of a mask each, by parts; see `keep_mask`."""
    stride, start = torch.empty(2, dtype=torch.int32, device=words.device).random_(-(1 << 31), None).unbind()
    stride.bitwise_or_(1)
    counter = torch.arange(_PART, dtype=torch.int32, device=words.device).mul_(stride).add_(start)
    scratch = torch.empty_like(counter)
    for part in words.split(_PART):
        part.copy_(counter[: len(part)])
        mix_(part, scratch[: len(part)])
        part.bitwise_and_((_LEVELS - 1) * (_LANES % (1 << 32))).add_(raised)
        part.view(torch.int16).bitwise_right_shift_(15)
        counter.add_(stride * _PART)


def mix_(words: Tensor, scratch: Tensor) -> None:
    """Hash words in place; of the result 31 bits are good, the highest is 0.

    Args:
        words: int32 (N,).
        scratch: int32 (N,), overwritten.
    """
    for shift, factor in _MIX:
        shifted = torch.bitwise_right_shift(words, shift, out=scratch).bitwise_and_((1 << (32 - shift)) - 1)  # no sign
        words.bitwise_xor_(shifted).mul_(factor)
    words.bitwise_xor_(torch.bitwise_right_shift(words, 16, out=scratch))


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
