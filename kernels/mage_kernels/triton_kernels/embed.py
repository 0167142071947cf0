"""Triton: embed the kept tokens of a batch (table row + position, LayerNorm) and its backward pass.

One program a kept token forwards. Backwards one program walks a run of tokens: what the hot row (the mask row, a third
to a half of all tokens), the norm's weight and its bias receive is summed in registers and leaves as one partial sum a
program; other rows take float32 atomics, or, where torch asks for determinism, a sorted sum.

Legend: B images, N positions, S kept positions, R table rows, D width, P programs.
"""

from __future__ import annotations

import triton
import triton.language as tl

RUN = 32  # tokens that one backward program walks


@triton.jit
def forward(
    rows, kept, table, positions, weight, bias, out, mean, rstd, S, N, D, eps,
    HAS_NORM: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(kept + token)
    row = tl.load(rows + (token // S) * N + place)
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
        token = program * RUN + step
        if token < tokens:
            place = tl.load(kept + token)
            row = tl.load(rows + (token // S) * N + place)
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
                    tl.atomic_add(table_grad + row * D + column, g, mask=inside)
    at = partial + program * 3 * D + column
    tl.store(at, hot_sum, mask=inside)
    tl.store(at + D, weight_sum, mask=inside)
    tl.store(at + 2 * D, bias_sum, mask=inside)


@triton.jit
def position_grad(inner, slot, out, B, S, N, D, BLOCK_D: tl.constexpr):
    """A program a position and block of the width: no atomics, the images in order."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < D
    total = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for image in range(B):
        at = tl.load(slot + image * N + place)
        if at >= 0:
            total += tl.load(inner + (image * S + at) * D + column, mask=inside, other=0.0)
    tl.store(out + place * D + column, total, mask=inside)
