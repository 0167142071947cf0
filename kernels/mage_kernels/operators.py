"""The Triton kernels as torch operators: launch, shapes for tracing, gradients, FLOP formulas.

Imported only where Triton was chosen; importing mage_kernels does not bring it. Outputs never alias inputs.

Legend: B images, N positions, S kept positions, R table rows, D and E widths, L tokens, V codes.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mage_kernels.triton_kernels import decode as decode_kernels
from mage_kernels.triton_kernels import embed as embed_kernels
from mage_kernels.triton_kernels import pad as pad_kernels

_WIDTH_BLOCK = 128  # slice of the width of kernels that walk images or positions: four values a thread of one warp


def _on(tensor: Tensor) -> Any:
    """Launches go to the current device, wherever the tensors are: make theirs the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _block(width: int) -> int:
    return int(triton.next_power_of_2(width))


def _warps(block: int) -> int:
    return 4 if block <= 1024 else 8 if block <= 4096 else 16


# -- embed + gather --------------------------------------------------------------------------------------------


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
    (batch, kept_count), width, block = kept.shape, table.shape[1], _block(table.shape[1])
    rows, kept, table, positions = (tensor.contiguous() for tensor in (rows, kept, table, positions))
    gain, shift = (table if part is None else part.contiguous() for part in (weight, bias))  # unread without a norm
    out = torch.empty(batch, kept_count, width, dtype=table.dtype, device=table.device)
    mean, rstd = (torch.empty(batch, kept_count, dtype=torch.float32, device=table.device) for _ in range(2))
    with _on(table):
        embed_kernels.forward[(batch * kept_count,)](
            rows, kept, table, positions, gain, shift, out, mean, rstd, kept_count, rows.shape[1], width, eps,
            HAS_NORM=weight is not None, BLOCK_D=block, num_warps=_warps(block),
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
    ordered: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return float32 gradients of table, positions, weight and bias; sums in a fixed order if `ordered`."""
    (batch, kept_count), (height, width), block = kept.shape, table.shape, _block(table.shape[1])
    grad, rows, kept, table, positions = (tensor.contiguous() for tensor in (grad, rows, kept, table, positions))
    gain = table if weight is None else weight.contiguous()
    tokens, device = batch * kept_count, grad.device
    programs = triton.cdiv(tokens, embed_kernels.RUN)
    inner = torch.empty(batch, kept_count, width, dtype=torch.float32, device=device)
    table_grad = torch.zeros(height, width, dtype=torch.float32, device=device)
    partial = torch.empty(programs, 3, width, dtype=torch.float32, device=device)
    with _on(grad):
        embed_kernels.backward[(programs,)](
            grad, rows, kept, table, positions, gain, mean, rstd, inner, table_grad,
            partial, kept_count, rows.shape[1], width, tokens, hot,
            HAS_NORM=weight is not None, ATOMIC=not ordered, RUN=embed_kernels.RUN,
            BLOCK_D=block, num_warps=_warps(block),
        )  # fmt: skip
    if ordered:
        table_grad.index_put_((rows.gather(1, kept).flatten(),), inner.flatten(0, 1), accumulate=True)
    sums = partial.sum(dim=0)
    if not ordered and hot >= 0:
        table_grad[hot] += sums[0]
    count = rows.shape[1]
    slot = torch.full((batch, count), -1, dtype=torch.int64, device=device)
    slot.scatter_(1, kept, torch.arange(kept_count, device=device).expand(batch, -1))
    positions_grad = torch.empty(positions.shape, dtype=torch.float32, device=device)
    slices = triton.cdiv(width, _WIDTH_BLOCK)
    with _on(grad):
        embed_kernels.position_grad[(count, slices)](
            inner, slot, positions_grad, batch, kept_count, count, width, BLOCK_D=_WIDTH_BLOCK, num_warps=1
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
    ordered: bool,
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


# -- padding ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("mage::pad_tokens", mutates_args=())
def pad_tokens(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    """Return the padded grid (B, N, E) in the promoted dtype of latents and positions."""
    (batch, count), (_, kept, width), block = slot.shape, latents.shape, _block(latents.shape[2])
    latents, slot, positions = (tensor.contiguous() for tensor in (latents, slot, positions))
    dtype = torch.promote_types(latents.dtype, positions.dtype)
    out = torch.empty(batch, count, width, dtype=dtype, device=latents.device)
    with _on(latents):
        pad_kernels.forward[(batch * count,)](
            latents, slot, positions, positions if fill is None else fill.contiguous(), out, kept, count, width,
            HAS_FILL=fill is not None, BLOCK_E=block, num_warps=_warps(block),
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
    slices = triton.cdiv(width, _WIDTH_BLOCK)
    with _on(grad):
        pad_kernels.latents_grad[(batch, slices)](
            grad, slot, latents, fill if has_fill else positions, kept, count, width,
            HAS_FILL=has_fill, BLOCK_E=_WIDTH_BLOCK, num_warps=1,
        )  # fmt: skip
    with _on(grad):
        pad_kernels.positions_grad[(count, slices)](
            grad, positions, batch, count, width, BLOCK_E=_WIDTH_BLOCK, num_warps=1
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


# -- decoding --------------------------------------------------------------------------------------------------


@torch.library.custom_op("mage::sample_tokens", mutates_args=())
def sample_tokens(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids (B, L) int64 and log-probabilities (B, L) float32; 0 where a position is known: it is not read."""
    batch, length, codes = logits.shape
    if logits.stride(2) != 1 or logits.stride(0) != length * logits.stride(1):
        logits = logits.contiguous()
    ids = torch.zeros(batch, length, dtype=torch.int64, device=logits.device)
    log_p = torch.zeros(batch, length, dtype=torch.float32, device=logits.device)
    block = _block(codes)
    with _on(logits):
        decode_kernels.sample[(batch * length,)](
            logits, masked.contiguous().view(torch.uint8), uniform.contiguous(), ids, log_p, codes, logits.stride(1),
            BLOCK_V=block, num_warps=_warps(block),
        )  # fmt: skip
    return ids, log_p


@sample_tokens.register_fake
def _(logits: Tensor, uniform: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    shape = tuple(logits.shape[:2])
    return logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("mage::remask", mutates_args=())
def remask(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """Return the next mask (B, L) bool: the `count` masked positions of the lowest scores in each row."""
    batch, length = score.shape
    block = _block(length)
    out = torch.empty(batch, length, dtype=torch.uint8, device=score.device)
    with _on(score):
        decode_kernels.remask[(batch,)](
            score.contiguous(), masked.contiguous().view(torch.uint8), count.contiguous(), out, length,
            BLOCK_L=block, CHUNK=min(block, 32), num_warps=4,
        )  # fmt: skip
    return out.to(torch.bool)


@remask.register_fake
def _(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    return score.new_empty(score.shape, dtype=torch.bool)


# -- operations counted, one for each add, multiply, compare, exp or log ---------------------------------------


@register_flop_formula(torch.ops.mage.embed_kept)
def _embed_flops(rows: Any, kept: Any, table: Any, *_: Any, **__: Any) -> int:
    return int(kept[0] * kept[1] * table[1] * 9)


@register_flop_formula(torch.ops.mage.embed_kept_backward)
def _embed_backward_flops(grad: Any, *_: Any, **__: Any) -> int:
    return int(grad[0] * grad[1] * grad[2] * 16)


@register_flop_formula(torch.ops.mage.pad_tokens)
def _pad_flops(latents: Any, slot: Any, *_: Any, **__: Any) -> int:
    return int(slot[0] * slot[1] * latents[2])


@register_flop_formula(torch.ops.mage.pad_tokens_backward)
def _pad_backward_flops(grad: Any, *_: Any, **__: Any) -> int:
    return int(grad[0] * grad[1] * grad[2] * 2)


@register_flop_formula(torch.ops.mage.sample_tokens)
def _sample_flops(logits: Any, *_: Any, **__: Any) -> int:
    return int(logits[0] * logits[1] * logits[2] * 8)


@register_flop_formula(torch.ops.mage.remask)
def _remask_flops(score: Any, *_: Any, **__: Any) -> int:
    return int(score[0] * score[1] * score[1] * 3)
