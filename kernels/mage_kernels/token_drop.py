"""Token drop and its inverse: embed the kept positions only, and pad the encoder's outputs back to the grid.

Three forms each: `triton` in one launch, `torch` by gathering, `reference` by computing everything and choosing after.

Legend: B images, N = 1 + L positions (class first), S = 1 + kept tokens, D encoder width, E decoder width.
The input LayerNorm works a token at a time, so gathering before it is exact and costs half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mage_kernels.autocasting import without_autocast
from mage_kernels.backend import Backend, choose

Norm = tuple[Tensor, Tensor, float]


def drop_tokens(values_BND: Tensor, kept_BS: Tensor) -> Tensor:
    """Gather the kept positions: (B, N, D), (B, S) -> (B, S, D).

    Position 0 may be named any number of times, every other once at most: the gradient relies on it.
    """
    kept_BSD: Tensor = _Rows.apply(values_BND, kept_BS)  # type: ignore[no-untyped-call]
    return kept_BSD


class _Rows(torch.autograd.Function):
    """Rows (B, M, E) by index (B, K), whole rows at a time; in the gradient a row is looked up, nothing is scattered.

    Row 0 may be wanted any number of times, every other once at most.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = values.shape[1]
        return _whole_rows(values, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        place = torch.arange(index.shape[1], device=index.device).expand_as(index)
        where = torch.full((len(index), ctx.count), -1, device=index.device).scatter_(1, index, place)
        out = _whole_rows(grad, where.clamp(min=0)) * (where >= 0)[:, :, None].to(grad.dtype)
        with without_autocast(grad):
            out[:, :1] = (index == 0).to(grad.dtype)[:, None] @ grad
        return out, None


def _whole_rows(values: Tensor, index: Tensor) -> Tensor:
    """torch.gather walks value by value, which is forty times slower on a CPU."""
    batch, count, width = values.shape
    flat = index + count * torch.arange(batch, device=index.device)[:, None]
    return values.reshape(batch * count, width).index_select(0, flat.flatten()).view(*index.shape, width)


def embed_kept(
    rows_BN: Tensor,
    kept_BS: Tensor,
    table_RD: Tensor,
    positions_ND: Tensor,
    norm: Norm | None = None,
    *,
    hot_row: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """Embed the kept positions of a batch of table rows: table row + position (+ LayerNorm).

    Args:
        rows_BN: int64 row of the table for every position (codes, mask row, class row).
        kept_BS: int64 kept positions, class first.
        table_RD: The table, codes and special rows.
        positions_ND: One vector a position.
        norm: LayerNorm's weight, bias and eps, or None.
        hot_row: The row that most tokens share (the mask row): its gradient is summed apart; -1 for none.
        backend: Which implementation runs.

    Returns:
        (B, S, D) in the table's dtype.

    Raises:
        ValueError: If the backend is unknown or cannot run here.
    """
    choice = choose("embed_kept", backend, table_RD.device, table_RD.dtype, table_RD.shape[1], _probe_embed)
    return _EMBED[choice.implementation](rows_BN, kept_BS, table_RD, positions_ND, norm, hot_row)


def pad_tokens(
    latents_BSE: Tensor,
    slot_BN: Tensor,
    positions_NE: Tensor,
    fill_E: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Place the encoder's outputs on the grid, fill the rest, add positions.

    Args:
        latents_BSE: Encoder outputs after the linear layer to the decoder's width, class first.
        slot_BN: int64 place of each position among the latents; 0 for the class and for what is filled. No other
            place may stand at two positions.
        positions_NE: The decoder's positions.
        fill_E: What fills a position of slot 0 (the class position excepted); None: the image's own class
            feature [C], paper section 3.1.
        backend: Which implementation runs.

    Returns:
        (B, N, E).

    Raises:
        ValueError: If the backend is unknown or cannot run here, or the batches differ or are empty.
    """
    if len(latents_BSE) != len(slot_BN) or not len(slot_BN):
        raise ValueError(f"slot: {len(slot_BN)} rows for {len(latents_BSE)} images, must be one each, at least one")
    choice = choose("pad_tokens", backend, latents_BSE.device, latents_BSE.dtype, latents_BSE.shape[2], _probe_pad)
    return _PAD[choice.implementation](latents_BSE, slot_BN, positions_NE, fill_E)


# -- embed + gather --------------------------------------------------------------------------------------------


def _embed_torch(rows: Tensor, kept: Tensor, table: Tensor, positions: Tensor, norm: Norm | None, _: int) -> Tensor:
    embedded_BSD = F.embedding(rows.gather(1, kept), table) + F.embedding(kept, positions)
    return _normed(embedded_BSD, norm)


def _embed_reference(rows: Tensor, kept: Tensor, table: Tensor, positions: Tensor, norm: Norm | None, _: int) -> Tensor:
    whole_BND = _normed(table[rows] + positions, norm)
    return torch.stack([image[places] for image, places in zip(whole_BND, kept, strict=True)])


def _embed_triton(
    rows: Tensor, kept: Tensor, table: Tensor, positions: Tensor, norm: Norm | None, hot_row: int
) -> Tensor:
    from mage_kernels import operators

    weight, bias, eps = (None, None, 0.0) if norm is None else norm
    out: Tensor = operators.embed_kept(rows, kept, table, positions, weight, bias, eps, hot_row)[0]
    return out


def _normed(embedded: Tensor, norm: Norm | None) -> Tensor:
    if norm is None:
        return embedded
    weight_D, bias_D, eps = norm
    return F.layer_norm(embedded, (embedded.shape[-1],), weight_D, bias_D, eps)


def _probe_embed(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> None:
    table, positions, weight, bias = (
        torch.ones(size, dtype=dtype, device=device, requires_grad=True)
        for size in ((3, width), (4, width), (width,), (width,))
    )
    rows, kept = (torch.zeros(1, size, dtype=torch.int64, device=device) for size in (4, 2))
    kept[0, 1] = 2
    with torch.enable_grad():
        _EMBED[implementation](rows, kept, table, positions, (weight, bias, 1e-6), 0).sum().backward()


_EMBED: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Norm | None, int], Tensor]] = {
    "triton": _embed_triton,
    "torch": _embed_torch,
    "reference": _embed_reference,
}


# -- padding ---------------------------------------------------------------------------------------------------


def _pad_torch(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    padded_BNE = drop_tokens(latents, slot)
    if fill is not None:
        filled_BN = slot == 0
        filled_BN = torch.cat([torch.zeros_like(filled_BN[:, :1]), filled_BN[:, 1:]], dim=1)
        padded_BNE = torch.where(filled_BN[:, :, None], fill.to(padded_BNE.dtype), padded_BNE)
    return padded_BNE + positions


def _pad_reference(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    images = []
    for own, places in zip(latents, slot, strict=True):
        rows = [
            own[place] if place > 0 or position == 0 or fill is None else fill.to(own.dtype)
            for position, place in enumerate(places.tolist())
        ]
        images.append(torch.stack(rows))
    return torch.stack(images) + positions


def _pad_triton(latents: Tensor, slot: Tensor, positions: Tensor, fill: Tensor | None) -> Tensor:
    from mage_kernels import operators

    out: Tensor = operators.pad_tokens(latents, slot, positions, fill)
    return out


def _probe_pad(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> None:
    latents, positions, fill = (
        torch.ones(size, dtype=dtype, device=device, requires_grad=True)
        for size in ((1, 2, width), (3, width), (width,))
    )
    slot = torch.tensor([[0, 1, 0]], device=device)
    with torch.enable_grad():
        _PAD[implementation](latents, slot, positions, fill).sum().backward()


_PAD: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "triton": _pad_triton,
    "torch": _pad_torch,
    "reference": _pad_reference,
}

PROBES = {"embed_kept": _probe_embed, "pad_tokens": _probe_pad}
