"""From decoder features to predictions: logits over codes through the tied, detached table, or patch values.

Legend: M rows (masked tokens), E decoder width, D encoder width, V codes, W token width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.blocks import Linear, initialise
from mage_kit.embedding import TokenEmbedding
from mage_kit.grid import TokenSpec


class CodeHead(nn.Module):
    """Linear E -> D, GELU, LayerNorm (eps 1e-5), product with the detached table, bias.

    The table learns from the input side alone: with a gradient from here the published weights could not have
    been trained as they were. Real codes only: neither the mask row nor the class row can be predicted.

    Args:
        spec: What the tokenizer produces.
        decoder_dim: Width E.
        encoder_dim: Width D, that of the table.
    """

    def __init__(self, spec: TokenSpec, decoder_dim: int, encoder_dim: int) -> None:
        super().__init__()
        assert spec.codes is not None
        self.fc = Linear(decoder_dim, encoder_dim)
        self.ln = nn.LayerNorm(encoder_dim)
        self.bias = nn.Parameter(torch.zeros(spec.codes))
        initialise(self)

    def forward(self, hidden_ME: Tensor, embedding: TokenEmbedding) -> Tensor:
        """(M, E) -> logits (M, V)."""
        features_MD = self.ln(self.fc(hidden_ME, gelu=True))
        return F.linear(features_MD, embedding.codes_VD.detach(), self.bias.to(features_MD.dtype))


class ValueHead(nn.Module):
    """Linear E -> W: the values of a continuous token (MAE's pixels).

    Args:
        spec: What the tokenizer produces.
        decoder_dim: Width E.
    """

    def __init__(self, spec: TokenSpec, decoder_dim: int) -> None:
        super().__init__()
        self.fc = Linear(decoder_dim, spec.width)
        initialise(self)

    def forward(self, hidden_ME: Tensor, embedding: TokenEmbedding) -> Tensor:
        """(M, E) -> values (M, W)."""
        values: Tensor = self.fc(hidden_ME)
        return values


def make_head(spec: TokenSpec, decoder_dim: int, encoder_dim: int) -> CodeHead | ValueHead:
    """Return the head that the tokenizer's tokens call for."""
    return CodeHead(spec, decoder_dim, encoder_dim) if spec.discrete else ValueHead(spec, decoder_dim)
