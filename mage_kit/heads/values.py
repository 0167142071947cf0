"""Continuous tokens predicted by their values: MAE's pixels.

Legend: M rows (masked tokens), E decoder width, W token width.
"""

from __future__ import annotations

from torch import Tensor

from mage_kit.base.grid import TokenSpec
from mage_kit.heads.base import HEADS, Head
from mage_kit.layers.blocks import initialise
from mage_kit.layers.embedding import TokenEmbedding
from mage_kit.layers.linear_layers import linear, packable
from mage_kit.layers.predictions import LossRows


@HEADS.register("values")
class ValueHead(Head):
    """Linear E -> W; nothing can be drawn from it."""

    needs_codes = False
    gives_values = True

    def __init__(self, spec: TokenSpec, decoder_dim: int) -> None:
        super().__init__()
        self.spec, self.decoder_dim = spec, decoder_dim
        self.fc = packable(decoder_dim, spec.width)
        initialise(self)

    def forward(self, features_ME: Tensor, embedding: TokenEmbedding) -> Tensor:
        """(..., E) -> values (..., W)."""
        return linear(self.fc, features_ME)

    def rows(self, predictions_MX: Tensor, targets_M: Tensor) -> LossRows:
        """Return mean squared errors."""
        return LossRows((predictions_MX.float() - targets_M.float()).pow(2).mean(dim=-1))
