"""The class-conditional decoder: a vision transformer that is told the image's class at one more position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mage_kit.base.fields import Depth, Fraction, Positive, PositiveFloat, Probability
from mage_kit.decoders.base import DECODERS, Decoder
from mage_kit.layers.blocks import NORM_EPS, Block, Blocks, initialise
from mage_kit.layers.condition import Condition


@DECODERS.register("class_vit")
class ClassViTDecoder(Decoder):
    """Pre-norm transformer over the padded grid and the class (supplement, "Class-Conditional Image Generation").

    The embedding of the class is one more position of the input, with a learned position of its own; one more row of
    the table stands for no class. The supplement says "concatenated to the padded features", and not along which axis.

    Args:
        classes: Number of classes; that of the data.
        dim: Width, a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Hidden width of the MLP as a multiple of `dim`.
        dropout: On attention weights, attention output and twice in the MLP.
        label_dropout: Share of the images whose label training withholds; guidance needs some.
    """

    def __init__(
        self,
        encoder_dim: int,
        num_tokens: int,
        *,
        classes: Positive,
        dim: Positive = 768,
        depth: Depth = 12,
        heads: Positive = 16,
        mlp_ratio: PositiveFloat = 4.0,
        dropout: Probability = 0.1,
        label_dropout: Fraction = 0.1,
    ) -> None:
        super().__init__(encoder_dim, num_tokens, dim)
        self.classes, self.label_dropout = classes, label_dropout
        self.depth, self.heads, self.mlp_ratio, self.dropout = depth, heads, mlp_ratio, dropout
        self.class_rows = nn.Embedding(classes + 1, dim)
        self.class_position_E = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.blocks = Blocks(Block(dim, heads, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise(self)
        nn.init.normal_(self.class_rows.weight, std=0.02)

    def forward(self, padded_BNE: Tensor, condition: Condition | None = None) -> Tensor:
        """(B, N, E) -> (B, N, E); None, like a label of -1, for no class."""
        nothing = self.class_rows.num_embeddings - 1
        if condition is None:
            row_B = torch.full(padded_BNE.shape[:1], nothing, device=padded_BNE.device)
        else:
            row_B = torch.where(condition.labels_B < 0, nothing, condition.labels_B)
        class_B1E = (self.class_rows(row_B) + self.class_position_E)[:, None]
        features_BNE = self.blocks(torch.cat([padded_BNE, class_B1E.to(padded_BNE.dtype)], dim=1))[:, :-1]
        normed_BNE: Tensor = self.norm(features_BNE)
        return normed_BNE
