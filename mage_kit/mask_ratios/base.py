"""What a mask ratio is: a distribution over the share of tokens masked in training."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mage_kit.registry import NoWires, Registry


class MaskRatio(ABC):
    """A distribution of mask ratios. Paper: section 3.1, "variable masking ratio".

    Attributes:
        low: Smallest ratio it can draw.
        high: Largest ratio it can draw.
    """

    low: float
    high: float

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ratios.

        Args:
            count: How many.
            generator: A CPU generator; the only source of randomness.

        Returns:
            float64 tensor (count,) within [low, high]. float64, because ceil(r L) of a rounded ratio
            can be one too many.
        """


MASK_RATIOS: Registry[MaskRatio, NoWires] = Registry("mask_ratios", MaskRatio, NoWires)


def check_range(low: float, high: float) -> None:
    """Raise ValueError unless low <= high."""
    if low > high:
        raise ValueError(f"low: {low}, must not exceed high ({high})")


def uniform01(count: int, generator: torch.Generator) -> Tensor:
    """Return `count` float64 numbers uniform in [0, 1)."""
    return torch.rand(count, generator=generator, dtype=torch.float64)
