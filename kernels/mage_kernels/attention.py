"""Multi-head attention in several forms with one signature.

Legend: B images, H heads, N positions, d head width. Layout (B, H, N, d), scale d^-0.5, no mask.
`sdpa` calls torch's scaled_dot_product_attention; `sdpa_flash`, `sdpa_cudnn`, `sdpa_efficient` hold it to one kernel by
flags of the whole process, which is for measuring, not for threads;
`xformers` calls memory_efficient_attention; `matmul` writes the two products out, logits and softmax in float32, which
is several times faster in bfloat16 on a CPU (SDPA's backward there is slow); `reference` keeps everything in float32,
whatever the input: slow, and what the others are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from mage_kernels.autocasting import without_autocast
from mage_kernels.dropout import apply_mask, cheap, keep_mask, keep_scale

Implementation = Literal["sdpa", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "xformers", "matmul", "reference"]

_SDPA_KERNELS = {
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def attention(
    query_BHNd: Tensor,
    key_BHNd: Tensor,
    value_BHNd: Tensor,
    *,
    dropout: float = 0.0,
    implementation: Implementation = "sdpa",
) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v with dropout on the attention weights.

    Args:
        query_BHNd: Queries; keys and values have the same shape and dtype.
        key_BHNd: Keys.
        value_BHNd: Values.
        dropout: Probability of dropping an attention weight, in [0, 1); pass 0 outside training.
        implementation: Which form computes it; nothing is replaced in silence.

    Raises:
        ValueError: If the implementation is unknown or cannot run on these, or an argument breaks its rule.
    """
    if not isinstance(implementation, str) or implementation not in _FORMS:
        raise ValueError(f"implementation: '{implementation}', must be one of {', '.join(get_args(Implementation))}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: {dropout}, must lie in [0, 1)")
    if not query_BHNd.is_floating_point():
        raise ValueError(f"query: {query_BHNd.dtype}, must be floating")
    return _FORMS[implementation](query_BHNd, key_BHNd, value_BHNd, dropout)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def _one_kernel(name: str) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    def run(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        try:
            with sdpa_kernel(_SDPA_KERNELS[name]):
                return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        except torch.OutOfMemoryError:  # a bad moment, not a fact of the machine
            raise
        except RuntimeError as error:
            raise _cannot(name, query, dropout, error) from None

    return run


def _xformers(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    try:
        from xformers.ops import memory_efficient_attention  # an extra; importing it takes a while

        parts = (part.transpose(1, 2) for part in (query, key, value))  # (B, N, H, d) there
        out: Tensor = memory_efficient_attention(*parts, p=dropout)
    except (ImportError, NotImplementedError) as error:
        raise _cannot("xformers", query, dropout, error) from None
    return out.transpose(1, 2)


def first_line(error: Exception) -> str:
    """Return what an error says first."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _cannot(form: str, query: Tensor, dropout: float, error: Exception) -> ValueError:
    what = f"{tuple(query.shape)} {str(query.dtype)[6:]} with dropout {dropout:g} on {query.device.type}"
    return ValueError(f"attention: '{form}', cannot run {what} ({first_line(error)})")


def _matmul(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with without_autocast(query):  # products of the dtype given, forward as backward
        return _image_by_image(query, key, value, dropout)


def _image_by_image(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    if torch.compiler.is_compiling():  # which fuses the plain form by itself
        weights = torch.softmax(_logits(query, key, query.shape[-1] ** -0.5), dim=-1).to(value.dtype)
        return F.dropout(weights, dropout) @ value
    if query.device.type == "cpu" and not torch.is_grad_enabled():
        # Image by image: the logits of one stay in the processor's cache.
        parts = zip(query.split(1), key.split(1), value.split(1), strict=True)
        return torch.cat([_Matmul.apply(*part, dropout) for part in parts])  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    out: Tensor = _Matmul.apply(query, key, value, dropout)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return out


class _Matmul(torch.autograd.Function):
    """The two products written out; keeps the weights in float32 and the dropout mask for the gradient.

    In bfloat16 a row of weights does not sum to 1, which the softmax's gradient, a small difference, would not forgive.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
        ctx.scale, ctx.keep = query.shape[-1] ** -0.5, 1.0
        wide = torch.softmax(_logits(query, key, ctx.scale), dim=-1)
        weights = wide.to(value.dtype)
        if not rate:
            ctx.save_for_backward(query, key, value, wide)
            return weights @ value
        if not cheap(weights, rate):
            kept = torch.rand_like(wide) >= rate
            ctx.keep = 1 / (1 - rate)  # a Python number: in bfloat16 it would move the mean
            ctx.save_for_backward(query, key, value, wide, kept)
            out: Tensor = (weights * kept) @ value * ctx.keep
            return out
        mask, ctx.keep = keep_mask(weights, rate), keep_scale(rate)
        ctx.save_for_backward(query, key, value, wide, mask)
        return (apply_mask(weights, mask) @ value).mul_(ctx.keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, wide, *masks = ctx.saved_tensors
        grad = grad * ctx.keep if ctx.keep != 1 else grad
        for_weights, dropped = grad @ value.mT, wide.to(value.dtype)
        for mask in masks:
            hide = apply_mask if mask.dtype == torch.int16 else torch.mul
            for_weights, dropped = hide(for_weights, mask), hide(dropped, mask)
        for_logits = torch._softmax_backward_data(for_weights.to(wide.dtype), wide, -1, wide.dtype).to(query.dtype)
        return (
            (for_logits @ key).mul_(ctx.scale),
            (for_logits.mT @ query).mul_(ctx.scale),
            dropped.mT @ grad,
            None,
        )


def _logits(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Scaled products in float32 at least; bfloat16 logits would be off by a hundredth and more."""
    wide = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query):
        return (query.to(wide) * scale) @ key.to(wide).mT


def _reference(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    with without_autocast(query):
        logits = (query.to(wide) @ key.to(wide).transpose(-1, -2)) * query.shape[-1] ** -0.5
        weights = torch.softmax(logits, dim=-1)
        return (F.dropout(weights, dropout) @ value.to(wide)).to(value.dtype)


_FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "sdpa": _sdpa,
    **{name: _one_kernel(name) for name in _SDPA_KERNELS},
    "xformers": _xformers,
    "matmul": _matmul,
    "reference": _reference,
}
