"""The loss that a head has of itself, for heads whose predictions are neither logits nor values."""

from __future__ import annotations

from mage_kit.losses.base import LOSSES, BatchMasks, Loss, LossInputs, LossTerm


@LOSSES.register("masked_prediction")
class MaskedPrediction(Loss):
    """Whatever the stream's head says that its predictions cost, averaged over all masked tokens of the batch.

    Args:
        stream: Whose tokens are predicted; "tokens" are the model's own tokenizer's.
    """

    def __init__(self, *, stream: str = "tokens") -> None:
        super().__init__()
        self.stream = stream

    def forward(self, inputs: LossInputs) -> LossTerm:
        """Sum the rows' losses."""
        cost = inputs.head_rows(inputs.predictions_MX, inputs.targets_M)
        return LossTerm((cost.rows_M * inputs.weight_M).sum(), cost.rows_M.detach(), cost.hits_M)

    def count(self, masks: BatchMasks) -> float:
        """Return the number of masked tokens."""
        return float(masks.masked_tokens)
