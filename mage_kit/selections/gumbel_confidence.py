"""MAGE's and MaskGIT's selection: confidence with annealed Gumbel noise."""

from __future__ import annotations

from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat
from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep


@SELECTIONS.register("gumbel_confidence")
class GumbelConfidence(Selection):
    """log p + temperature (1 - t / T) Gumbel noise; the noise fades to 0 over the steps.

    Args:
        temperature: tau; 6.0 in the paper, 0 for the most confident tokens always.
    """

    def __init__(self, *, temperature: NonNegativeFloat = 6.0) -> None:
        self.temperature = temperature

    def score(self, step: SelectionStep) -> Tensor:
        """Return noisy confidences (B, L)."""
        return step.log_p_BL + step.fading_noise(self.temperature)
