"""MAE's padding: one learned vector."""

from __future__ import annotations

import torch
from mage_kernels import MaskPlan, pad_tokens
from torch import Tensor, nn

from mage_kit.paddings.base import PADDINGS, Padding, slots


@PADDINGS.register("mask_token")
class MaskTokenPadding(Padding):
    """Fills with one learned vector shared by all images, as MAE does (paper Table 3, [MASK]).

    Args:
        replace_seen: Also replace masked tokens that the encoder did see.
    """

    informed = False

    def __init__(self, dim: int, *, replace_seen: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.replace_seen = replace_seen
        self.mask_token = nn.Parameter(torch.empty(dim).normal_(std=0.02))

    def forward(self, latents_BSE: Tensor, plan: MaskPlan, positions_NE: Tensor) -> Tensor:
        """(B, S, E) -> (B, N, E)."""
        slot_BN = slots(plan, self.replace_seen)
        return pad_tokens(latents_BSE, slot_BN, positions_NE, self.mask_token, backend=self.backend)
