"""Selection by margin: tokens whose likeliest code leaves the next one far behind."""

from __future__ import annotations

from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat
from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep


@SELECTIONS.register("margin")
class Margin(Selection):
    """Probability of the likeliest code less that of the next one, plus fading Gumbel noise.

    Args:
        temperature: Of the noise; margins lie in [0, 1], so 1 is much; 0 for none.
    """

    reads_predictions = True

    def __init__(self, *, temperature: NonNegativeFloat = 0.0) -> None:
        self.temperature = temperature

    def score(self, step: SelectionStep) -> Tensor:
        """Return noisy margins (B, L)."""
        predictions = step.read()
        return predictions.first_BL - predictions.second_BL + step.fading_noise(self.temperature)
