"""A researcher's own masking sampler, in a file of its own: the class below is all that is written.

Named in a recipe ("plugins": ["examples.triangular"]) it is valid there (`--allow-plugins`, where the current
folder alone has it). `mage-kit ls mask_ratios --plugin
examples.triangular` lists it, `mage-kit show triangular --plugin examples.triangular` draws it.
"""

from __future__ import annotations

import torch

from mage_kit import MASK_RATIOS, Fraction, MaskRatio


@MASK_RATIOS.register("triangular")
class Triangular(MaskRatio):
    """Symmetric triangular masking ratio.

    Args:
        low: Smallest ratio, as a fraction of tokens.
        high: Largest ratio, as a fraction of tokens.
    """

    def __init__(self, *, low: Fraction = 0.5, high: Fraction = 1.0) -> None:
        if low > high:
            raise ValueError(f"low: {low}, must not exceed high ({high})")
        self.low, self.high = low, high

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw ratios as the mean of two uniform numbers."""
        pair = torch.rand(2, count, generator=generator, dtype=torch.float64)
        return self.low + pair.mean(dim=0) * (self.high - self.low)
