"""From tokens to encoder input: codes through a table, continuous tokens through a projection; then positions.

Legend: B images, L tokens, N = 1 + L positions (class first), S kept positions, V codes, W token width, D encoder
width. Code tables hold V codes, then the mask row, then the class row (the "fake class token" [C0]).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from mage_kernels import Backend, MaskPlan, drop_tokens, embed_kept, full_plan
from pydantic import Field
from torch import Tensor, nn

from mage_kit.base.doors import check_tensor, check_tokens
from mage_kit.base.fields import Probability
from mage_kit.base.grid import TokenGrid, TokenSpec
from mage_kit.base.signature import Strict
from mage_kit.layers.blocks import NORM_EPS, drop, initialise


class EmbeddingConfig(Strict):
    """How tokens enter the encoder. MAGE: learned positions, norm, dropout 0.1. MAE: sine-cosine, neither."""

    positions: Literal["learned", "sine_cosine"] = Field(
        "learned", description="Learned table, or fixed 2-D sine-cosine."
    )
    norm: bool = Field(True, description="LayerNorm after adding positions (eps 1e-6).")
    dropout: Probability = Field(0.1, description="Dropout after the norm.")


def sine_cosine_positions(grid: TokenGrid, dim: int) -> Tensor:
    """Return fixed 2-D sine-cosine positions (1 + L, D), the class position all zeros (as in MAE).

    Raises:
        ValueError: If `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"dim: {dim}, sine-cosine positions need a multiple of 4")
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    y_L = torch.arange(grid.height, dtype=torch.float64).repeat_interleave(grid.width)
    x_L = torch.arange(grid.width, dtype=torch.float64).repeat(grid.height)
    angles = torch.cat([x_L[:, None] * omega, y_L[:, None] * omega], dim=1).split(dim // 4, dim=1)
    table_LD = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table_LD]).to(torch.float32)


def resize_positions(positions_ND: Tensor, old: TokenGrid, new: TokenGrid) -> Tensor:
    """Return learned positions for another grid: the class position as it is, the others bicubic over the grid.

    Args:
        positions_ND: (1 + L, D), class first.
        old: Grid of the L tokens.
        new: Grid wanted.
    """
    if new == old:
        return positions_ND
    plane = rearrange(positions_ND[1:].float(), "(h w) d -> 1 d h w", h=old.height)
    new_plane = F.interpolate(plane, (new.height, new.width), mode="bicubic", align_corners=False, antialias=True)
    rest_LD = rearrange(new_plane, "1 d h w -> (h w) d").to(positions_ND.dtype)
    return torch.cat([positions_ND[:1], rest_LD])


def open_plan(tokens: Tensor) -> MaskPlan:
    """Return the plan that masks and drops nothing, for features.

    Args:
        tokens: Ids (B, L) or (B, L, F), or continuous tokens (B, L, W).
    """
    check_tensor("tokens", tokens)
    return full_plan(torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


class TokenEmbedding(nn.Module):
    """Embeds the kept positions of a batch: content + position (+ LayerNorm, dropout).

    Args:
        spec: What the tokenizer produces.
        dim: Encoder width D.
        config: Positions, norm and dropout.
    """

    def __init__(self, spec: TokenSpec, dim: int, config: EmbeddingConfig) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.backend: Backend = "auto"
        self.positions_ND: nn.Parameter | Tensor
        if config.positions == "learned":
            self.positions_ND = nn.Parameter(torch.empty(1 + spec.grid.size, dim).normal_(std=0.02))
        else:
            self.register_buffer("positions_ND", sine_cosine_positions(spec.grid, dim), persistent=False)
        if spec.codes is not None:
            self.table = nn.Parameter(torch.empty(spec.codes * spec.factors + 2, dim).normal_(std=0.02))
        else:
            self.projection = nn.Linear(spec.width, dim)
            initialise(self.projection)
            self.mask_token = nn.Parameter(torch.empty(dim).normal_(std=0.02))
            self.class_token = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS) if config.norm else None

    @property
    def mask_row(self) -> int:
        """Row of the table that stands for a masked code."""
        return int(self.table.shape[0]) - 2

    @property
    def codes_VD(self) -> Tensor:
        """Rows of the table that stand for codes; the tied head reads them."""
        return self.table[: self.mask_row]

    def forward(self, tokens: Tensor, plan: MaskPlan) -> Tensor:
        """Embed what the plan keeps; masked tokens enter as the mask row or vector, whatever they hold.

        Args:
            tokens: Ids (B, L) or (B, L, F) int64, or continuous tokens (B, L, W).
            plan: The masks.

        Returns:
            (B, S, D), class position first.

        Raises:
            ValueError: If the tokens are of another shape or type, or an id that is not hidden names no code.
        """
        check_tokens("tokens", tokens, self.spec.shape(1)[1:], self.spec.codes, plan.masked_BL)
        embedded_BSD = self._codes(tokens, plan) if self.spec.discrete else self._continuous(tokens, plan)
        return drop(embedded_BSD, self.config.dropout, self.training)

    def _codes(self, ids_BL: Tensor, plan: MaskPlan) -> Tensor:
        if self.spec.factors > 1:
            return self._factors(ids_BL, plan)
        rows_BL = torch.where(plan.masked_BL, self.mask_row, ids_BL)
        rows_BN = F.pad(rows_BL, (1, 0), value=self.mask_row + 1)
        norm = None if self.norm is None else (self.norm.weight, self.norm.bias, self.norm.eps)
        return embed_kept(
            rows_BN, plan.kept_BS, self.table, self.positions_ND, norm, hot_row=self.mask_row, backend=self.backend
        )

    def _factors(self, ids_BLF: Tensor, plan: MaskPlan) -> Tensor:
        """Sum the rows of a token's ids, each factor having rows of its own; a masked token is the mask row."""
        assert self.spec.codes is not None
        first_F = torch.arange(self.spec.factors, device=ids_BLF.device) * self.spec.codes
        shown_BLF = torch.where(plan.masked_BL[..., None], 0, ids_BLF)  # what a hidden place holds is not read
        content_BLD = self.table[shown_BLF + first_F].sum(dim=2)
        content_BLD = torch.where(plan.masked_BL[..., None], self.table[self.mask_row], content_BLD)
        class_B1D = self.table[self.mask_row + 1].expand(content_BLD.shape[0], 1, -1)
        full_BND = torch.cat([class_B1D, content_BLD], dim=1) + self.positions_ND
        kept_BSD = drop_tokens(full_BND, plan.kept_BS)
        return kept_BSD if self.norm is None else self.norm(kept_BSD)

    def _continuous(self, values_BLW: Tensor, plan: MaskPlan) -> Tensor:
        projected_BLD = self.projection(values_BLW)
        content_BLD = torch.where(plan.masked_BL[:, :, None], self.mask_token.to(projected_BLD.dtype), projected_BLD)
        class_B1D = self.class_token.to(content_BLD.dtype).expand(content_BLD.shape[0], 1, -1)
        full_BND = torch.cat([class_B1D, content_BLD], dim=1) + self.positions_ND
        kept_BSD = drop_tokens(full_BND, plan.kept_BS)
        return kept_BSD if self.norm is None else self.norm(kept_BSD)
