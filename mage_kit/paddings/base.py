"""What a padding is: the way from the encoder's outputs back to the whole grid.

Legend: B images, N = 1 + L positions (class first), S = 1 + kept tokens, E decoder width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from mage_kernels import Backend, MaskPlan
from torch import Tensor, nn

from mage_kit.base.registry import Registry


@dataclass(frozen=True)
class PaddingWires:
    """What the model wires into a padding: the decoder's width."""

    dim: int


class Padding(nn.Module, ABC):
    """Places the kept tokens on the grid and fills the rest; adds the decoder's positions.

    Attributes:
        replace_seen: Whether masked tokens that the encoder did see are filled too.
        informed: True where the filling tells something of the image.
        backend: Which implementation of the kernel runs.
    """

    backend: Backend = "auto"
    replace_seen: bool
    informed: ClassVar[bool]

    @abstractmethod
    def forward(self, latents_BSE: Tensor, plan: MaskPlan, positions_NE: Tensor) -> Tensor:
        """Return the decoder's input.

        Args:
            latents_BSE: Encoder outputs at the decoder's width, class first.
            plan: The masks.
            positions_NE: The decoder's positions.

        Returns:
            (B, N, E).
        """


PADDINGS: Registry[Padding, PaddingWires] = Registry("paddings", Padding, PaddingWires)


def slots(plan: MaskPlan, replace_seen: bool) -> Tensor:
    """Return the plan's slots (B, N), 0 also for masked tokens that the encoder did see if `replace_seen`."""
    return torch.where(plan.visible_BN, plan.slot_BN, 0) if replace_seen else plan.slot_BN
