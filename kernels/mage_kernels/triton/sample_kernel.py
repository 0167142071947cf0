"""Triton: sample a code a position by inverse CDF with one uniform number each, and its log-probability.

Logits of known positions are never read. Legend: B images, L tokens, V codes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mage_kernels.triton.launching import block_of, on, warps_of


@triton.jit
def sample(
    logits, masked, uniform, ids, log_p, V, stride, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """A program a position. A row that is no distribution (NaN, +inf, all -inf) gives a log-probability of NaN."""
    index = tl.program_id(0).to(tl.int64)  # image * L + token
    if tl.load(masked + index) != 0:
        column = tl.arange(0, BLOCK_V)
        inside = column < V
        x = tl.load(logits + index * stride + column, mask=inside, other=-float("inf")).to(tl.float32)
        top = tl.max(x, axis=0)
        offset = x - top
        weight = tl.where(inside, tl.exp(offset), 0.0)
        total = tl.sum(weight, axis=0)
        cdf = tl.cumsum(weight, axis=0)
        target = tl.load(uniform + index).to(tl.float32) * total
        below = (cdf <= target) & inside
        code = tl.sum(below.to(tl.int32), axis=0)
        # Rounding may leave the target at the very end: the last code of positive weight is the answer there.
        last = tl.max(tl.where(weight > 0, column, 0), axis=0)
        code = tl.minimum(code, last)
        logit = tl.sum(tl.where(column == code, offset, 0.0), axis=0)
        tl.store(ids + index, code.to(tl.int64))
        tl.store(log_p + index, logit - tl.log(total))


@torch.library.custom_op("mage::sample_tokens", mutates_args=())
def sample_tokens(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids (B, L) int64 and log-probabilities (B, L) float32; 0 where a position is known: it is not read."""
    batch, length, codes = logits.shape
    if logits.stride(2) != 1 or logits.stride(0) != length * logits.stride(1):
        logits = logits.contiguous()
    ids = torch.zeros(batch, length, dtype=torch.int64, device=logits.device)
    log_p = torch.zeros(batch, length, dtype=torch.float32, device=logits.device)
    block = block_of(codes)
    with on(logits):
        sample[(batch * length,)](
            logits, masked.contiguous().view(torch.uint8), uniform.contiguous(), ids, log_p, codes, logits.stride(1),
            BLOCK_V=block, num_warps=warps_of(block),
        )  # fmt: skip
    return ids, log_p


@sample_tokens.register_fake
def _(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    shape = tuple(logits.shape[:2])
    return logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape, dtype=torch.float32)


# Operations: one for each add, multiply, compare, exp or log.


@register_flop_formula(torch.ops.mage.sample_tokens)
def _sample_flops(logits: Any, *_: Any, **__: Any) -> int:
    return int(logits[0] * logits[1] * logits[2] * 8)
