"""One ratio for all: MAE (0.75) and the paper's fixed-ratio ablation."""

from __future__ import annotations

import torch
from torch import Tensor

from mage_kit.base.fields import Fraction
from mage_kit.mask_ratios.base import MASK_RATIOS, MaskRatio


@MASK_RATIOS.register("fixed")
class FixedRatio(MaskRatio):
    """The same ratio for every image.

    Args:
        ratio: Share of tokens masked.
    """

    def __init__(self, *, ratio: Fraction = 0.75) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"ratio: {ratio}, must lie in [0, 1]")
        self.ratio = ratio
        self.low = self.high = ratio

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the ratio `count` times."""
        return torch.full((count,), self.ratio, dtype=torch.float64)
