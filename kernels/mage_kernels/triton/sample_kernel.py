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

CODES_BLOCK = 4096  # codes at a time: more would not fit the registers of a program


def blocks_of(codes: int) -> tuple[int, int]:
    """Return the codes that a program reads at a time, and how many times; powers of two, the last may be empty."""
    block = min(block_of(codes), CODES_BLOCK)
    return block, block_of(triton.cdiv(codes, block))


@triton.jit
def _first_above(cdf, weight, target, place, END: tl.constexpr):
    """Return the first place whose cumulated weight passes the target, of those that have weight.

    A parallel scan adds in another order at every place, so that its result may fall by a unit of rounding where no
    weight was added: a place is an answer only if its own weight is above 0. Rounding may also leave the target at the
    very end: the last place of positive weight is the answer there.
    """
    first = tl.min(tl.where((cdf > target) & (weight > 0), place, END), axis=0)
    last = tl.max(tl.where(weight > 0, place, 0), axis=0)
    return tl.minimum(first, last)


@triton.jit
def sample(
    logits, masked, uniform, ids, log_p, V, stride, BLOCK_V: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """A program a position. A row that is no distribution (NaN, +inf, all -inf) gives a log-probability of NaN.

    The codes are walked in blocks: their weights are summed against the largest logit so far, and scaled again where a
    larger one comes; then the block in which the target falls is read once more.
    """
    index = tl.program_id(0).to(tl.int64)  # image * L + token
    if tl.load(masked + index) != 0:
        column = tl.arange(0, BLOCK_V)
        own = logits + index * stride
        number = tl.arange(0, BLOCKS)
        sums = tl.zeros((BLOCKS,), dtype=tl.float32)
        top = -float("inf")
        for block in range(BLOCKS):
            at = block * BLOCK_V + column
            x = tl.load(own + at, mask=at < V, other=-float("inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(x, axis=0))
            base = tl.where(higher == -float("inf"), 0.0, higher)
            part = tl.sum(tl.exp(x - base), axis=0)
            sums = tl.where(number == block, part, sums * tl.exp(top - base))
            top = higher
        base = tl.where(top == -float("inf"), 0.0, top)
        total = tl.sum(sums, axis=0)
        target = tl.load(uniform + index).to(tl.float32) * total
        part_index = 0
        if BLOCKS > 1:
            before = tl.cumsum(sums, axis=0)
            part_index = _first_above(before, sums, target, number, BLOCKS)
            target -= tl.sum(tl.where(number == part_index, before - sums, 0.0), axis=0)
        at = part_index * BLOCK_V + column
        offset = tl.load(own + at, mask=at < V, other=-float("inf")).to(tl.float32) - base
        weight = tl.exp(offset)
        code = _first_above(tl.cumsum(weight, axis=0), weight, target, column, BLOCK_V)
        logit = tl.sum(tl.where(column == code, offset, 0.0), axis=0)
        tl.store(ids + index, (part_index * BLOCK_V + code).to(tl.int64))
        tl.store(log_p + index, tl.where(total > 0, logit - tl.log(total), float("nan")))


@torch.library.custom_op("mage::sample_tokens", mutates_args=())
def sample_tokens(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids (B, L) int64 and log-probabilities (B, L) float32; 0 where a position is known: it is not read."""
    batch, length, codes = logits.shape
    if logits.stride(2) != 1 or logits.stride(0) != length * logits.stride(1):
        logits = logits.contiguous()
    ids = torch.zeros(batch, length, dtype=torch.int64, device=logits.device)
    log_p = torch.zeros(batch, length, dtype=torch.float32, device=logits.device)
    block, blocks = blocks_of(codes)
    with on(logits):
        sample[(batch * length,)](
            logits, masked.contiguous().view(torch.uint8), uniform.contiguous(), ids, log_p, codes, logits.stride(1),
            BLOCK_V=block, BLOCKS=blocks, num_warps=warps_of(block),
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
