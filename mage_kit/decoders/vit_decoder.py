"""The vision transformer decoder. B: 8 blocks, 768, 16 heads. L: 8, 1024, 16."""

from __future__ import annotations

from torch import Tensor, nn

from mage_kit.base.fields import Depth, Positive, PositiveFloat, Probability
from mage_kit.decoders.base import DECODERS, Decoder, refuse_condition
from mage_kit.layers.blocks import NORM_EPS, Block, Blocks, initialise
from mage_kit.layers.condition import Condition


@DECODERS.register("vit")
class ViTDecoder(Decoder):
    """Pre-norm transformer over the padded grid (paper section 3.1; supplement, Table 6).

    Args:
        dim: Width, a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of `dim`.
        dropout: On attention weights, attention output and twice in the MLP.
    """

    def __init__(
        self,
        encoder_dim: int,
        num_tokens: int,
        *,
        dim: Positive = 768,
        depth: Depth = 8,
        heads: Positive = 16,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Probability = 0.1,
    ) -> None:
        super().__init__(encoder_dim, num_tokens, dim)
        self.depth, self.heads, self.mlp_ratio, self.dropout = depth, heads, mlp_ratio, dropout
        self.blocks = Blocks(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise(self)

    def forward(self, padded_BNE: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, N, E) -> (B, N, E)."""
        refuse_condition(self, condition)
        normed_BNE: Tensor = self.norm(self.blocks(padded_BNE))
        return normed_BNE
