"""Triton: place the encoder's outputs on the grid, fill the rest with [C] or one vector, add positions; and backwards.

Legend: B images, N positions, S encoder outputs, E width.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward(latents, slot, positions, fill, out, S, N, E, HAS_FILL: tl.constexpr, BLOCK_E: tl.constexpr):
    index = tl.program_id(0).to(tl.int64)  # image * N + position
    image = index // N
    place = index % N
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
def latents_grad(grad, slot, out, fill_partial, S, N, E, HAS_FILL: tl.constexpr, BLOCK_E: tl.constexpr):
    """A program an image and block of the width; `out` is zeroed before: rows that no position reads get nothing."""
    image = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    inside = column < E
    first = tl.zeros((BLOCK_E,), dtype=tl.float32)
    filled = tl.zeros((BLOCK_E,), dtype=tl.float32)
    for place in range(N):
        g = tl.load(grad + (image * N + place) * E + column, mask=inside, other=0.0).to(tl.float32)
        at = tl.load(slot + image * N + place)
        if at > 0:
            tl.store(out + (image * S + at) * E + column, g.to(out.dtype.element_ty), mask=inside)
        elif HAS_FILL:
            if place > 0:
                filled += g
            else:
                first += g
        else:
            first += g
    tl.store(out + image * S * E + column, first.to(out.dtype.element_ty), mask=inside)
    if HAS_FILL:
        tl.store(fill_partial + image * E + column, filled, mask=inside)


@triton.jit
def positions_grad(grad, out, B, N, E, BLOCK_E: tl.constexpr):
    """A program a position and block of the width: the images in order, no atomics."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    inside = column < E
    total = tl.zeros((BLOCK_E,), dtype=tl.float32)
    for image in range(B):
        total += tl.load(grad + (image * N + place) * E + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place * E + column, total, mask=inside)
