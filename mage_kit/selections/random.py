"""Selection by chance: the baseline every other one has to beat."""

from __future__ import annotations

from torch import Tensor

from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep


@SELECTIONS.register("random")
class RandomSelection(Selection):
    """Keeps tokens at random, whatever their confidence."""

    def score(self, step: SelectionStep) -> Tensor:
        """Return the noise (B, L)."""
        return step.uniform_BL
