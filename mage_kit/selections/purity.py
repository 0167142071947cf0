"""Selection by purity: tokens whose likeliest code is likeliest, whatever was drawn."""

from __future__ import annotations

from torch import Tensor

from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep


@SELECTIONS.register("purity")
class Purity(Selection):
    """Probability of the likeliest code, without noise.

    Tang et al., "Improved Vector Quantized Diffusion Models", 2022, without their sharpening of the distribution.
    """

    reads_predictions = True

    def score(self, step: SelectionStep) -> Tensor:
        """Return the likeliest code's probability (B, L)."""
        return step.read().first_BL
