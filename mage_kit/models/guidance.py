"""Classifier-free guidance: how far to go from what a decoder says without a label to what it says with it.

Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022; schedules over the steps as MaskGIT's successors use them.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from mage_kit.base.fields import NonNegativeFloat
from mage_kit.base.signature import Strict


class Guidance(Strict):
    """logits = with label + weight (with label - without label)."""

    scale: NonNegativeFloat = Field(description="Weight of the guidance at the last step; 0: none.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="Weight over the steps: the scale; scale x r; scale x (1 - cos(pi r)) / 2; r = t / T."
    )

    def weight(self, progress: float) -> float:
        """Return the weight at a progress t / T in [0, 1]; the scale itself at 1."""
        if self.schedule == "linear":
            return self.scale * progress
        if self.schedule == "cosine":
            return self.scale * (1 - math.cos(math.pi * progress)) / 2
        return self.scale
