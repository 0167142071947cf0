"""What a mask ratio is: a distribution over the share of tokens masked in training."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mage_kit.base.registry import Registry
from mage_kit.base.signature import NoWires


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


def draw(ratio: MaskRatio, count: int, generator: torch.Generator) -> Tensor:
    """Draw ratios and hold them to the contract: a plug-in's bug is named, not trained on.

    Raises:
        ValueError: If the draws have another type or shape, or leave the stated range.
    """
    name, drawn = type(ratio).__name__, ratio.sample(count, generator)
    if not isinstance(drawn, Tensor) or drawn.dtype != torch.float64:
        kind = str(drawn.dtype)[6:] if isinstance(drawn, Tensor) else type(drawn).__name__
        raise ValueError(f"mask_ratio: {name} drew {kind}, must be a float64 tensor")
    if drawn.shape != (count,) or not bool(((drawn >= ratio.low) & (drawn <= ratio.high)).all()):
        span = f"[{drawn.min():g}, {drawn.max():g}]" if drawn.numel() else "nothing"
        wanted = f"({count},) in [{ratio.low:g}, {ratio.high:g}]"
        raise ValueError(f"mask_ratio: {name} drew {tuple(drawn.shape)} in {span}, must be {wanted}")
    return drawn


def check_range(low: float, high: float) -> None:
    """Raise ValueError unless 0 <= low <= high <= 1: in Python, no recipe has checked the bounds."""
    if low > high:
        raise ValueError(f"low: {low}, must not exceed high ({high})")
    if low < 0 or high > 1:
        raise ValueError(f"low: {low}, and high: {high}, must lie in [0, 1]")


def uniform01(count: int, generator: torch.Generator) -> Tensor:
    """Return `count` float64 numbers uniform in [0, 1)."""
    return torch.rand(count, generator=generator, dtype=torch.float64)
