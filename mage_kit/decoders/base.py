"""What a decoder is. Legend: B images, N = 1 + L positions (class first), D encoder width, E decoder width."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mage_kit.base.registry import Registry
from mage_kit.layers.condition import Condition
from mage_kit.layers.linear_layers import packable


@dataclass(frozen=True)
class DecoderWires:
    """What the model wires into a decoder: the encoder's width and the number of tokens."""

    encoder_dim: int
    num_tokens: int


class Decoder(nn.Module, ABC):
    """Turns the padded grid into features from which the head predicts.

    Args:
        encoder_dim: Width D of the encoder's outputs.
        num_tokens: Tokens of the grid, L.
        dim: Own width E.

    Attributes:
        embed: Linear layer D -> E on the encoder's outputs, applied before padding.
        positions_NE: Learned positions, added by the padding.
        mixes: False where a position's output follows from its own input alone.
        classes: Number of classes that it may be told of; None if it takes no condition.
        label_dropout: Share of the images whose label training withholds, so that it can do without.
    """

    mixes: ClassVar[bool] = True
    classes: int | None = None
    label_dropout: float = 0.0

    def __init__(self, encoder_dim: int, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.encoder_dim, self.num_tokens, self.dim = encoder_dim, num_tokens, dim
        self.embed = packable(encoder_dim, dim)
        self.positions_NE = nn.Parameter(torch.empty(1 + num_tokens, dim).normal_(std=0.02))

    @abstractmethod
    def forward(self, padded_BNE: Tensor, condition: Condition | None = None) -> Tensor:
        """Return features (B, N, E), after the final norm.

        Args:
            padded_BNE: The padded grid, positions added.
            condition: For conditional decoders; others take None alone.
        """


DECODERS: Registry[Decoder, DecoderWires] = Registry("decoders", Decoder, DecoderWires)


def refuse_condition(decoder: Decoder, condition: Condition | None) -> None:
    """Raise ValueError if an unconditional decoder is given a condition."""
    if condition is not None:
        raise ValueError(f"condition: given, but {type(decoder).__name__} takes none")
