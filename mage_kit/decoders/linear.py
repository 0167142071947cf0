"""The decoder without depth: MaskGIT's and SimMIM's form, where the encoder does all the work."""

from __future__ import annotations

from torch import Tensor, nn

from mage_kit.base.fields import Positive
from mage_kit.decoders.base import DECODERS, Decoder, refuse_condition
from mage_kit.layers.blocks import NORM_EPS, initialise
from mage_kit.layers.condition import Condition


@DECODERS.register("linear")
class LinearDecoder(Decoder):
    """A linear layer and a LayerNorm; use it with an encoder that sees every position (drop 0).

    Args:
        dim: Width of its features.
    """

    mixes = False

    def __init__(self, encoder_dim: int, num_tokens: int, *, dim: Positive = 768) -> None:
        super().__init__(encoder_dim, num_tokens, dim)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise(self)

    def forward(self, padded_BNE: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        refuse_condition(self, condition)
        normed_BNE: Tensor = self.norm(padded_BNE)
        return normed_BNE
