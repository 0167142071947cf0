"""Token drop and embedding in one: table row + position of the kept positions alone, and the input norm.

Three forms: `triton` in one launch, `torch` by gathering, `reference` by computing everything and choosing after. The
LayerNorm works a token at a time, so gathering before it is exact and costs half.

Legend: B images, N = 1 + L positions (class first), S = 1 + kept tokens, D encoder width, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kernels.backend import Backend, choose, ramp

Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and eps of a LayerNorm."""


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
    choice = choose("embed_kept", backend, table_RD.device, table_RD.dtype, table_RD.shape[1], probe)
    return _FORMS[choice.implementation](rows_BN, kept_BS, table_RD, positions_ND, norm, hot_row)


def _torch(rows: Tensor, kept: Tensor, table: Tensor, positions: Tensor, norm: Norm | None, _: int) -> Tensor:
    embedded_BSD = F.embedding(rows.gather(1, kept), table) + F.embedding(kept, positions)
    return _normalize(embedded_BSD, norm)


def _reference(rows: Tensor, kept: Tensor, table: Tensor, positions: Tensor, norm: Norm | None, _: int) -> Tensor:
    whole_BND = _normalize(table[rows] + positions, norm)
    return torch.stack([image[places] for image, places in zip(whole_BND, kept, strict=True)])


def _triton(rows: Tensor, kept: Tensor, table: Tensor, positions: Tensor, norm: Norm | None, hot_row: int) -> Tensor:
    from mage_kernels.triton import embed_kernel as launched

    weight, bias, eps = (None, None, 0.0) if norm is None else norm
    out: Tensor = launched.embed_kept(rows, kept, table, positions, weight, bias, eps, hot_row)[0]
    return out


def _normalize(x: Tensor, norm: Norm | None) -> Tensor:
    if norm is None:
        return x
    weight_D, bias_D, eps = norm
    return F.layer_norm(x, (x.shape[-1],), weight_D, bias_D, eps)


def probe(implementation: str, device: torch.device, dtype: torch.dtype, width: int) -> list[Tensor]:
    """Run one form, forward and backward, on a row of four positions; return the output and the gradients."""
    leaves = [ramp(shape, device, dtype) for shape in ((3, width), (4, width), (width,), (width,))]
    table, positions, weight, bias = leaves
    rows = torch.tensor([[0, 1, 2, 1]], device=device)
    places = torch.tensor([[0, 1, 3]], device=device)
    with torch.enable_grad():
        out = _FORMS[implementation](rows, places, table, positions, (weight, bias, 1e-6), 1)
        return [out, *torch.autograd.grad(out, leaves, ramp(out.shape, device, out.dtype))]


_FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Norm | None, int], Tensor]] = {
    "triton": _triton,
    "torch": _torch,
    "reference": _reference,
}
