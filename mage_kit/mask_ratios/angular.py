"""Ratios whose distribution mirrors a decoding schedule: cosine (MaskGIT) and arccos."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mage_kit.base.fields import Fraction
from mage_kit.mask_ratios.base import MASK_RATIOS, MaskRatio, check_range, uniform01


@MASK_RATIOS.register("cosine")
class CosineRatio(MaskRatio):
    """cos(pi u / 2) of a uniform u, scaled to a range: MaskGIT's training ratio, mostly high.

    Args:
        low: Smallest ratio, as a fraction of tokens.
        high: Largest ratio, as a fraction of tokens.
    """

    def __init__(self, *, low: Fraction = 0.0, high: Fraction = 1.0) -> None:
        check_range(low, high)
        self.low, self.high = low, high

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ratios in (low, high]."""
        return self.low + torch.cos(uniform01(count, generator) * math.pi / 2) * (self.high - self.low)


@MASK_RATIOS.register("arccos")
class ArccosRatio(MaskRatio):
    """(2 / pi) arccos(u) of a uniform u, scaled to a range: low and high ratios more often than cosine's middle.

    Args:
        low: Smallest ratio, as a fraction of tokens.
        high: Largest ratio, as a fraction of tokens.
    """

    def __init__(self, *, low: Fraction = 0.0, high: Fraction = 1.0) -> None:
        check_range(low, high)
        self.low, self.high = low, high

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ratios in (low, high]."""
        return self.low + torch.acos(uniform01(count, generator)) * (2 / math.pi) * (self.high - self.low)
