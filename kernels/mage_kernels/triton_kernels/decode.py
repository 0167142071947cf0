"""Triton: sample a code a position with its log-probability and confidence, and re-mask exactly k a row.

Logits of known positions are never read. Sampling is by inverse CDF with one uniform number a position.

Legend: B images, L tokens, V codes.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
        shifted = x - top
        weight = tl.where(inside, tl.exp(shifted), 0.0)
        total = tl.sum(weight, axis=0)
        summed = tl.cumsum(weight, axis=0)
        target = tl.load(uniform + index).to(tl.float32) * total
        below = (summed <= target) & inside
        code = tl.sum(below.to(tl.int32), axis=0)
        # Rounding may leave the target at the very end: the last code of positive weight is the answer there.
        last = tl.max(tl.where(weight > 0, column, 0), axis=0)
        code = tl.minimum(code, last)
        chosen = tl.sum(tl.where(column == code, shifted, 0.0), axis=0)
        tl.store(ids + index, code.to(tl.int64))
        tl.store(log_p + index, chosen - tl.log(total))


@triton.jit
def remask(score, masked, count, out, L, BLOCK_L: tl.constexpr, CHUNK: tl.constexpr):
    """A program an image: a position's rank is the number of masked ones before it in the order (score, index)."""
    image = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK_L)
    inside = place < L
    mine = tl.load(score + image * L + place, mask=inside, other=float("inf"))
    unknown = tl.load(masked + image * L + place, mask=inside, other=0) != 0
    mine = tl.where(mine != mine, float("inf"), mine)
    rank = tl.zeros((BLOCK_L,), dtype=tl.int32)
    for start in range(0, BLOCK_L, CHUNK):
        other = start + tl.arange(0, CHUNK)
        theirs = tl.load(score + image * L + other, mask=other < L, other=float("inf"))
        theirs = tl.where(theirs != theirs, float("inf"), theirs)
        counts = tl.load(masked + image * L + other, mask=other < L, other=0) != 0
        before = (theirs[None, :] < mine[:, None]) | (
            (theirs[None, :] == mine[:, None]) & (other[None, :] < place[:, None])
        )
        rank += tl.sum((before & counts[None, :]).to(tl.int32), axis=1)
    kept = unknown & (rank < tl.load(count + image).to(tl.int32))
    tl.store(out + image * L + place, kept.to(tl.int8), mask=inside)
