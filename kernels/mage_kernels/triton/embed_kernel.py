"""Triton: embed the kept tokens of a batch (table row + position, LayerNorm) and its backward pass.

One program a kept token forwards. Backwards one program walks a run of tokens: what the hot row (the mask row, a third
to a half of all tokens), the norm's weight and its bias receive is summed in registers and leaves as one partial sum a
program; other rows take float32 atomics, or, where torch asks for determinism, a sorted sum.

The gradient. A token's x = table row + position; with m its mean, s = 1 / sqrt(variance + eps), n = (x - m) s, the
output is y = weight n + bias. With g = weight dy, since m and s depend on every x:

    dn_i / dx_j = s ([i = j] - 1/D - n_i n_j / D)    so    dx = s (g - mean(g) - n mean(g n))

A table row gets the sum of dx over the tokens that took it, a position the sum over the images that kept it; weight
gets the sum of dy n, bias that of dy. Only m and s are kept from the forward pass: x is read again.

Legend: B images, N positions, S kept positions, R table rows, D width, P programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mage_kernels.triton.launching import TILE, WIDTH_BLOCK, block_of, on, warps_of

RUN = 32  # tokens that one backward program walks


@triton.jit
def forward(
    rows, kept, table, positions, weight, bias, out, mean, rstd, S, N, D, eps,
    HAS_NORM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    image = (tl.program_id(0) // S).to(tl.int64)  # divided as 32 bits: 64 would be a call
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(kept + token)
    row = tl.load(rows + image * N + place)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    x = tl.load(table + row * D + column, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(positions + place * D + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        centre = tl.sum(x, axis=0) / D
        away = tl.where(inside, x - centre, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(away * away, axis=0) / D + eps)
        tl.store(mean + token, centre)
        tl.store(rstd + token, scale)
        gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        x = away * scale * gain + shift
    tl.store(out + token * D + column, x.to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    grad, rows, kept, table, positions, weight, mean, rstd, inner, table_grad, partial, S, N, D, tokens, hot,
    HAS_NORM: tl.constexpr, ATOMIC: tl.constexpr, RUN: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    hot_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    weight_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    bias_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    if HAS_NORM:
        gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    for step in range(RUN):
        number = tl.program_id(0) * RUN + step
        if number < tokens:
            token = number.to(tl.int64)
            place = tl.load(kept + token)
            row = tl.load(rows + (number // S).to(tl.int64) * N + place)
            g = tl.load(grad + token * D + column, mask=inside, other=0.0).to(tl.float32)
            if HAS_NORM:
                x = tl.load(table + row * D + column, mask=inside, other=0.0).to(tl.float32)
                x += tl.load(positions + place * D + column, mask=inside, other=0.0).to(tl.float32)
                scale = tl.load(rstd + token)
                normed = tl.where(inside, (x - tl.load(mean + token)) * scale, 0.0)
                weight_sum += g * normed
                bias_sum += g
                g = g * gain
                g = scale * (g - tl.sum(g, axis=0) / D - normed * (tl.sum(g * normed, axis=0) / D))
                g = tl.where(inside, g, 0.0)
            tl.store(inner + token * D + column, g, mask=inside)
            if ATOMIC:
                if row == hot:
                    hot_sum += g
                else:
                    # Sums that nobody reads before the kernel's end: no order, and so no barrier, is asked for.
                    tl.atomic_add(table_grad + row * D + column, g, mask=inside, sem="relaxed")
    at = partial + program * 3 * D + column
    tl.store(at, hot_sum, mask=inside)
    tl.store(at + D, weight_sum, mask=inside)
    tl.store(at + 2 * D, bias_sum, mask=inside)


@triton.jit
def position_grad(inner, slot, out, B, S, N, D, TILE: tl.constexpr, BLOCK_D: tl.constexpr):
    """A program a position and block of the width: no atomics; the images in tiles, each place of a tile in order."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((TILE, BLOCK_D), dtype=tl.float32)
    for start in range(0, B, TILE):
        image = (start + tl.arange(0, TILE)).to(tl.int64)
        at = tl.load(slot + image * N + place, mask=image < B, other=-1)
        read = (at >= 0)[:, None] & (column < D)[None, :]
        total += tl.load(inner + (image * S + at)[:, None] * D + column[None, :], mask=read, other=0.0)
    tl.store(out + place * D + column, tl.sum(total, axis=0), mask=column < D)


@torch.library.custom_op("mage::embed_kept", mutates_args=())
def embed_kept(
    rows: Tensor,
    kept: Tensor,
    table: Tensor,
    positions: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    hot: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the embedded kept positions (B, S, D), and the norm's mean and 1 / deviation (B, S) for the gradient.

    `hot` is the table row that most tokens share; -1 if there is none.
    """
    (batch, kept_count), width, block = kept.shape, table.shape[1], block_of(table.shape[1])
    rows, kept, table, positions = (tensor.contiguous() for tensor in (rows, kept, table, positions))
    gain, shift = (table if part is None else part.contiguous() for part in (weight, bias))  # unread without a norm
    out = torch.empty(batch, kept_count, width, dtype=table.dtype, device=table.device)
    mean, rstd = (torch.empty(batch, kept_count, dtype=torch.float32, device=table.device) for _ in range(2))
    with on(table):
        forward[(batch * kept_count,)](
            rows, kept, table, positions, gain, shift, out, mean, rstd, kept_count, rows.shape[1], width, eps,
            HAS_NORM=weight is not None, BLOCK_D=block, num_warps=warps_of(block),
        )  # fmt: skip
    return out, mean, rstd


@embed_kept.register_fake
def _(
    rows: Tensor,
    kept: Tensor,
    table: Tensor,
    positions: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    hot: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = tuple(kept.shape)
    return (
        table.new_empty((*shape, table.shape[1])),
        table.new_empty(shape, dtype=torch.float32),
        table.new_empty(shape, dtype=torch.float32),
    )


@torch.library.custom_op("mage::embed_kept_backward", mutates_args=())
def embed_kept_backward(
    grad: Tensor,
    rows: Tensor,
    kept: Tensor,
    table: Tensor,
    positions: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    hot: int,
    fixed_order: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return float32 gradients of table, positions, weight and bias; sums in a fixed order if `fixed_order`."""
    (batch, kept_count), (height, width), block = kept.shape, table.shape, block_of(table.shape[1])
    grad, rows, kept, table, positions = (tensor.contiguous() for tensor in (grad, rows, kept, table, positions))
    gain = table if weight is None else weight.contiguous()
    tokens, device = batch * kept_count, grad.device
    programs = triton.cdiv(tokens, RUN)
    inner = torch.empty(batch, kept_count, width, dtype=torch.float32, device=device)
    table_grad = torch.zeros(height, width, dtype=torch.float32, device=device)
    partial = torch.empty(programs, 3, width, dtype=torch.float32, device=device)
    with on(grad):
        backward[(programs,)](
            grad, rows, kept, table, positions, gain, mean, rstd, inner, table_grad,
            partial, kept_count, rows.shape[1], width, tokens, hot,
            HAS_NORM=weight is not None, ATOMIC=not fixed_order, RUN=RUN,
            BLOCK_D=block, num_warps=warps_of(block),
        )  # fmt: skip
    if fixed_order:
        table_grad.index_put_((rows.gather(1, kept).flatten(),), inner.flatten(0, 1), accumulate=True)
    sums = partial.sum(dim=0)
    if not fixed_order and hot >= 0:
        table_grad[hot] += sums[0]
    count = rows.shape[1]
    slot = torch.full((batch, count), -1, dtype=torch.int64, device=device)
    slot.scatter_(1, kept, torch.arange(kept_count, device=device).expand(batch, -1))
    positions_grad = torch.empty(positions.shape, dtype=torch.float32, device=device)
    slices = triton.cdiv(width, WIDTH_BLOCK)
    with on(grad):
        position_grad[(count, slices)](
            inner, slot, positions_grad, batch, kept_count, count, width, TILE=TILE, BLOCK_D=WIDTH_BLOCK, num_warps=4
        )
    return table_grad, positions_grad, sums[1].clone(), sums[2].clone()


@embed_kept_backward.register_fake
def _(
    grad: Tensor,
    rows: Tensor,
    kept: Tensor,
    table: Tensor,
    positions: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    hot: int,
    fixed_order: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        table.new_empty(table.shape, dtype=torch.float32),
        positions.new_empty(positions.shape, dtype=torch.float32),
        table.new_empty(table.shape[1:], dtype=torch.float32),
        table.new_empty(table.shape[1:], dtype=torch.float32),
    )


def _embed_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    rows, kept, table, positions, weight, _, _, ctx.hot = inputs
    ctx.has_norm = weight is not None
    ctx.save_for_backward(rows, kept, table, positions, *(() if weight is None else (weight,)), *output[1:])


def _embed_gradient(ctx: Any, grad: Tensor, _mean: Any, _rstd: Any) -> tuple[Tensor | None, ...]:
    rows, kept, table, positions, *rest = ctx.saved_tensors
    weight = rest[0] if ctx.has_norm else None
    mean, rstd = rest[-2:]
    table_grad, positions_grad, weight_grad, bias_grad = torch.ops.mage.embed_kept_backward(
        grad, rows, kept, table, positions, weight, mean, rstd, ctx.hot, torch.are_deterministic_algorithms_enabled()
    )
    if weight is None:
        return None, None, table_grad.to(table.dtype), positions_grad.to(positions.dtype), None, None, None, None
    own = (gradient.to(weight.dtype) for gradient in (weight_grad, bias_grad))
    return None, None, table_grad.to(table.dtype), positions_grad.to(positions.dtype), *own, None, None


embed_kept.register_autograd(_embed_gradient, setup_context=_embed_context)


# Operations: one for each add, multiply, compare, exp or log.


@register_flop_formula(torch.ops.mage.embed_kept)
def _embed_flops(rows: Any, kept: Any, table: Any, *_: Any, **__: Any) -> int:
    return int(kept[0] * kept[1] * table[1] * 9)


@register_flop_formula(torch.ops.mage.embed_kept_backward)
def _embed_backward_flops(grad: Any, *_: Any, **__: Any) -> int:
    return int(grad[0] * grad[1] * grad[2] * 16)
