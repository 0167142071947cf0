"""Triton: re-mask exactly k a row, by counting ranks.

Legend: B images, L tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mage_kernels.triton.launching import block_of, on

CHUNK = 4  # positions that all others are compared with at a time: more would not fit the registers at 1,024


def warps_of(block: int) -> int:
    """Return the warps of a program on so many positions."""
    return 4 if block <= 256 else 8


@triton.jit
def ranks(score, masked, count, out, L, BLOCK_L: tl.constexpr, CHUNK: tl.constexpr):
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


@torch.library.custom_op("mage::remask", mutates_args=())
def remask(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """Return the next mask (B, L) bool: the `count` masked positions of the lowest scores in each row."""
    batch, length = score.shape
    block = block_of(length)
    out = torch.empty(batch, length, dtype=torch.uint8, device=score.device)
    with on(score):
        ranks[(batch,)](
            score.contiguous(), masked.contiguous().view(torch.uint8), count.contiguous(), out, length,
            BLOCK_L=block, CHUNK=min(block, CHUNK), num_warps=warps_of(block),
        )  # fmt: skip
    return out.to(torch.bool)


@remask.register_fake
def _(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    return score.new_empty(score.shape, dtype=torch.bool)


# Operations: one for each add, multiply, compare, exp or log.


@register_flop_formula(torch.ops.mage.remask)
def _remask_flops(score: Any, *_: Any, **__: Any) -> int:
    return int(score[0] * score[1] * score[1] * 3)
