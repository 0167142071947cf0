"""Triton: place the encoder's outputs on the grid, fill the rest with [C] or one vector, add positions; and backwards.

Legend: B images, N positions, S encoder outputs, E width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mage_kernels.triton.launching import TILE, WIDTH_BLOCK, block_of, on, warps_of


@triton.jit
def forward(latents, slot, positions, fill, out, S, N, E, HAS_FILL: tl.constexpr, BLOCK_E: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)  # image * N + position
    image = (tl.program_id(0) // N).to(tl.int64)  # divided as 32 bits: 64 would be a call
    place = index - image * N
    column = tl.arange(0, BLOCK_E)
    inside = column < E
    at = tl.load(slot + index)
    x = tl.load(latents + (image * S + at) * E + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_FILL:
        filler = tl.load(fill + column, mask=inside, other=0.0).to(tl.float32)
        x = tl.where((at == 0) & (place > 0), filler, x)
    x += tl.load(positions + place * E + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + index * E + column, x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def latents_grad(
    grad, slot, out, fill_partial, S, N, E, HAS_FILL: tl.constexpr, TILE: tl.constexpr, BLOCK_E: tl.constexpr
):
    """A program an image and block of the width; `out` is zeroed before: rows that no position reads get nothing."""
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    inside = (column < E)[None, :]
    first = tl.zeros((TILE, BLOCK_E), dtype=tl.float32)
    fill_sum = tl.zeros((TILE, BLOCK_E), dtype=tl.float32)
    for start in range(0, N, TILE):
        place = start + tl.arange(0, TILE)
        at = tl.load(slot + image * N + place, mask=place < N, other=0)
        read = (place < N)[:, None] & inside
        g = tl.load(grad + (image * N + place)[:, None] * E + column[None, :], mask=read, other=0.0).to(tl.float32)
        own = (at > 0)[:, None]
        tl.store(out + (image * S + at)[:, None] * E + column[None, :], g.to(out.dtype.element_ty), mask=own & read)
        g = tl.where(own, 0.0, g)
        if HAS_FILL:
            filled = (place > 0)[:, None]
            fill_sum += tl.where(filled, g, 0.0)
            g = tl.where(filled, 0.0, g)
        first += g
    total = tl.sum(first, axis=0)
    tl.store(out + image * S * E + column, total.to(out.dtype.element_ty), mask=column < E)
    if HAS_FILL:
        tl.store(fill_partial + image * E + column, tl.sum(fill_sum, axis=0), mask=column < E)


@triton.jit
def positions_grad(grad, out, B, N, E, TILE: tl.constexpr, BLOCK_E: tl.constexpr):
    """A program a position and block of the width: no atomics; the images in tiles, each place of a tile in order."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    total = tl.zeros((TILE, BLOCK_E), dtype=tl.float32)
    for start in range(0, B, TILE):
        image = (start + tl.arange(0, TILE)).to(tl.int64)
        read = (image < B)[:, None] & (column < E)[None, :]
        total += tl.load(grad + (image * N + place)[:, None] * E + column[None, :], mask=read, other=0.0).to(tl.float32)
    tl.store(out + place * E + column, tl.sum(total, axis=0), mask=column < E)


@torch.library.custom_op("mage::pad_tokens", mutates_args=())
def pad_tokens(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    """Return the padded grid (B, N, E) in the promoted dtype of latents and positions."""
    (batch, count), (_, kept, width), block = slot.shape, latents.shape, block_of(latents.shape[2])
    latents, slot, positions = (tensor.contiguous() for tensor in (latents, slot, positions))
    dtype = torch.promote_types(latents.dtype, positions.dtype)
    out = torch.empty(batch, count, width, dtype=dtype, device=latents.device)
    with on(latents):
        forward[(batch * count,)](
            latents, slot, positions, positions if fill is None else fill.contiguous(), out, kept, count, width,
            HAS_FILL=fill is not None, BLOCK_E=block, num_warps=warps_of(block),
        )  # fmt: skip
    return out


@pad_tokens.register_fake
def _(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    dtype = torch.promote_types(latents.dtype, positions.dtype)
    return latents.new_empty((*slot.shape, latents.shape[2]), dtype=dtype)


@torch.library.custom_op("mage::pad_tokens_backward", mutates_args=())
def pad_tokens_backward(grad: Tensor, slot: Tensor, kept: int, dtype: torch.dtype, has_fill: bool) -> list[Tensor]:
    """Return the gradients of latents (in `dtype`), positions and, with a fill, of the fill (both float32)."""
    batch, count, width = grad.shape
    grad, slot = grad.contiguous(), slot.contiguous()
    latents = torch.zeros(batch, kept, width, dtype=dtype, device=grad.device)
    positions = torch.empty(count, width, dtype=torch.float32, device=grad.device)
    fill = torch.empty(batch if has_fill else 0, width, dtype=torch.float32, device=grad.device)
    slices = triton.cdiv(width, WIDTH_BLOCK)
    with on(grad):
        latents_grad[(batch, slices)](
            grad, slot, latents, fill if has_fill else positions, kept, count, width,
            HAS_FILL=has_fill, TILE=TILE, BLOCK_E=WIDTH_BLOCK, num_warps=4,
        )  # fmt: skip
        positions_grad[(count, slices)](
            grad, positions, batch, count, width, TILE=TILE, BLOCK_E=WIDTH_BLOCK, num_warps=4
        )
    return [latents, positions, fill.sum(dim=0)]


@pad_tokens_backward.register_fake
def _(grad: Tensor, slot: Tensor, kept: int, dtype: torch.dtype, has_fill: bool) -> list[Tensor]:
    batch, count, width = grad.shape
    return [
        grad.new_empty((batch, kept, width), dtype=dtype),
        grad.new_empty((count, width), dtype=torch.float32),
        grad.new_empty((width,), dtype=torch.float32),
    ]


def _pad_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    latents, slot, positions, fill = inputs
    ctx.kept, ctx.dtypes = latents.shape[1], (latents.dtype, positions.dtype, None if fill is None else fill.dtype)
    ctx.save_for_backward(slot)


def _pad_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (slot,) = ctx.saved_tensors
    dtype, positions_dtype, fill_dtype = ctx.dtypes
    latents, positions, fill = torch.ops.mage.pad_tokens_backward(grad, slot, ctx.kept, dtype, fill_dtype is not None)
    return latents, None, positions.to(positions_dtype), None if fill_dtype is None else fill.to(fill_dtype)


pad_tokens.register_autograd(_pad_gradient, setup_context=_pad_context)


# Operations: one for each add, multiply, compare, exp or log.


@register_flop_formula(torch.ops.mage.pad_tokens)
def _pad_flops(latents: Any, slot: Any, *_: Any, **__: Any) -> int:
    return int(slot[0] * slot[1] * latents[2])


@register_flop_formula(torch.ops.mage.pad_tokens_backward)
def _pad_backward_flops(grad: Any, *_: Any, **__: Any) -> int:
    return int(grad[0] * grad[1] * grad[2] * 2)
