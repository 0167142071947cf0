"""MAGE's reconstructive loss: cross entropy over the codes of masked tokens."""

from __future__ import annotations

from mage_kit.base.fields import Probability
from mage_kit.layers.predictions import cross_entropy_rows
from mage_kit.losses.base import LOSSES, BatchMasks, Loss, LossInputs, LossTerm


@LOSSES.register("masked_cross_entropy")
class MaskedCrossEntropy(Loss):
    """Cross entropy with label smoothing, averaged over all masked tokens of the batch (paper equation 1).

    Of tokens with several ids the cross entropies are added.

    Args:
        label_smoothing: s in (1 - s) NLL + s mean negative log-probability.
        stream: Whose codes are predicted; "tokens" are the model's own tokenizer's.
    """

    needs_codes = True

    def __init__(self, *, label_smoothing: Probability = 0.1, stream: str = "tokens") -> None:
        super().__init__()
        self.label_smoothing, self.stream = label_smoothing, stream

    def forward(self, inputs: LossInputs) -> LossTerm:
        """Sum the rows' losses."""
        cost = cross_entropy_rows(inputs.predictions_MX, inputs.targets_M, self.label_smoothing)
        return LossTerm((cost.rows_M * inputs.weight_M).sum(), cost.rows_M.detach(), cost.hits_M)

    def count(self, masks: BatchMasks) -> float:
        """Return the number of masked tokens."""
        return float(masks.masked_tokens)
