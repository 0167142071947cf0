"""MAGE's mask ratio: a normal distribution cut to a range."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mage_kit.base.fields import Fraction, PositiveFloat
from mage_kit.mask_ratios.base import MASK_RATIOS, MaskRatio, check_range, uniform01


@MASK_RATIOS.register("truncated_normal")
class TruncatedNormalRatio(MaskRatio):
    """Normal distribution truncated to a range: MAGE's own (paper section 3.1, Table 10).

    Args:
        mode: Centre of the normal distribution; the ratio drawn most often if it lies inside the range.
        std: Its standard deviation before truncation.
        low: Smallest ratio, as a fraction of tokens.
        high: Largest ratio; 1.0 for MAGE, 0.6 for MAGE-C.
    """

    def __init__(
        self, *, mode: Fraction = 0.55, std: PositiveFloat = 0.25, low: Fraction = 0.5, high: Fraction = 1.0
    ) -> None:
        check_range(low, high)
        self.mode, self.std, self.low, self.high = mode, std, low, high

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ratios by inverting the truncated distribution function."""
        first, last = (
            0.5 * (1 + math.erf((edge - self.mode) / (self.std * math.sqrt(2)))) for edge in (self.low, self.high)
        )
        share = first + uniform01(count, generator) * (last - first)
        ratio = self.mode + self.std * math.sqrt(2) * torch.erfinv(2 * share - 1)
        return ratio.clamp(self.low, self.high)
