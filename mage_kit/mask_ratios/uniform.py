"""Every ratio of a range equally often."""

from __future__ import annotations

import torch
from torch import Tensor

from mage_kit.base.fields import Fraction
from mage_kit.mask_ratios.base import MASK_RATIOS, MaskRatio, check_range, uniform01


@MASK_RATIOS.register("uniform")
class UniformRatio(MaskRatio):
    """Uniform distribution over a range.

    Args:
        low: Smallest ratio, as a fraction of tokens.
        high: Largest ratio, as a fraction of tokens.
    """

    def __init__(self, *, low: Fraction = 0.5, high: Fraction = 1.0) -> None:
        check_range(low, high)
        self.low, self.high = low, high

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ratios in [low, high)."""
        return self.low + uniform01(count, generator) * (self.high - self.low)
