"""What an encoder is. Legend: B images, S kept positions (class first), D width."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mage_kit.base.registry import Registry
from mage_kit.base.signature import NoWires


class Encoder(nn.Module, ABC):
    """Turns embedded tokens into features.

    Attributes:
        dim: Width D.
        norm: The final norm, between the last block and the decoder; features are taken before it.
    """

    dim: int
    norm: nn.Module

    @abstractmethod
    def forward(self, x_BSD: Tensor) -> Tensor:
        """Return the last block's output (B, S, D), before the final norm."""

    def outputs(self, x_BSD: Tensor) -> list[Tensor]:
        """Return the output of each block (B, S, D), the first block's first; the last is that of `forward`."""
        return [self(x_BSD)]


ENCODERS: Registry[Encoder, NoWires] = Registry("encoders", Encoder, NoWires)
