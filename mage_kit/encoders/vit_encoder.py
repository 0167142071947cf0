"""The vision transformer encoder. B: 12 blocks, 768, 12 heads. L: 24, 1024, 16."""

from __future__ import annotations

from torch import Tensor, nn

from mage_kit.base.fields import Depth, Positive, PositiveFloat, Probability
from mage_kit.encoders.base import ENCODERS, Encoder
from mage_kit.layers.blocks import NORM_EPS, Block, Blocks, initialise


@ENCODERS.register("vit")
class ViTEncoder(Encoder):
    """Pre-norm transformer over the kept tokens (paper section 3.1; supplement, "ViT architecture").

    Args:
        dim: Width, a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of `dim`.
        dropout: On attention weights, attention output and twice in the MLP.
    """

    def __init__(
        self,
        *,
        dim: Positive = 768,
        depth: Depth = 12,
        heads: Positive = 12,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Probability = 0.1,
    ) -> None:
        super().__init__()
        self.dim, self.depth, self.heads, self.mlp_ratio, self.dropout = dim, depth, heads, mlp_ratio, dropout
        self.blocks = Blocks(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise(self)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        output_BSD: Tensor = self.blocks(x_BSD)
        return output_BSD

    def outputs(self, x_BSD: Tensor) -> list[Tensor]:
        """(B, S, D) -> one (B, S, D) a block."""
        return list(self.blocks.through(x_BSD))
