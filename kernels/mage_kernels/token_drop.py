"""Token drop and its inverse: embed the kept positions only, and pad the encoder's outputs back to the grid.

Legend: B images, N = 1 + L positions (class first), S = 1 + kept tokens, D encoder width, E decoder width.
The input LayerNorm works a token at a time, so gathering before it is exact and costs half.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def drop_tokens(values_BND: Tensor, kept_BS: Tensor) -> Tensor:
    """Gather the kept positions: (B, N, D), (B, S) -> (B, S, D)."""
    return values_BND.gather(1, kept_BS[:, :, None].expand(-1, -1, values_BND.shape[-1]))


def embed_kept(
    rows_BN: Tensor,
    kept_BS: Tensor,
    table_RD: Tensor,
    positions_ND: Tensor,
    norm: tuple[Tensor, Tensor, float] | None = None,
) -> Tensor:
    """Embed the kept positions of a batch of table rows: table row + position (+ LayerNorm).

    Args:
        rows_BN: int64 row of the table for every position (codes, mask row, class row).
        kept_BS: int64 kept positions, class first.
        table_RD: The table, codes and special rows.
        positions_ND: One vector a position.
        norm: LayerNorm's weight, bias and eps, or None.

    Returns:
        (B, S, D) in the table's dtype.
    """
    embedded_BSD = F.embedding(rows_BN.gather(1, kept_BS), table_RD) + F.embedding(kept_BS, positions_ND)
    if norm is None:
        return embedded_BSD
    weight_D, bias_D, eps = norm
    return F.layer_norm(embedded_BSD, (embedded_BSD.shape[-1],), weight_D, bias_D, eps)


def pad_tokens(latents_BSE: Tensor, slot_BN: Tensor, positions_NE: Tensor, fill_E: Tensor | None = None) -> Tensor:
    """Place the encoder's outputs on the grid, fill the rest, add positions.

    Args:
        latents_BSE: Encoder outputs after the linear layer to the decoder's width, class first.
        slot_BN: int64 place of each position among the latents; 0 for the class and for what is filled.
        positions_NE: The decoder's positions.
        fill_E: What fills a position of slot 0 (the class position excepted); None: the image's own class
            feature [C], paper section 3.1.

    Returns:
        (B, N, E).
    """
    padded_BNE = drop_tokens(latents_BSE, slot_BN)
    if fill_E is not None:
        filled_BN = slot_BN == 0
        filled_BN = torch.cat([torch.zeros_like(filled_BN[:, :1]), filled_BN[:, 1:]], dim=1)
        padded_BNE = torch.where(filled_BN[:, :, None], fill_E.to(padded_BNE.dtype), padded_BNE)
    return padded_BNE + positions_NE
