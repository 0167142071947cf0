"""Selection by entropy: tokens of which the model is surest, whatever was drawn."""

from __future__ import annotations

from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat
from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep


@SELECTIONS.register("entropy")
class Entropy(Selection):
    """Minus the entropy of the prediction, in nats, plus fading Gumbel noise.

    Args:
        temperature: Of the noise, as in `gumbel_confidence`; 0 for none.
    """

    reads_predictions = True

    def __init__(self, *, temperature: NonNegativeFloat = 0.0) -> None:
        self.temperature = temperature

    def score(self, step: SelectionStep) -> Tensor:
        """Return noisy negative entropies (B, L)."""
        return step.fading_noise(self.temperature) - step.read().entropy_BL
