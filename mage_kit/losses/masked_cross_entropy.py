"""MAGE's reconstructive loss: cross entropy over the codes of masked tokens."""

from __future__ import annotations

from torch import Tensor

from mage_kit.fields import Probability
from mage_kit.losses.base import LOSSES, BatchMasks, Loss, LossInputs, LossTerm


@LOSSES.register("masked_cross_entropy")
class MaskedCrossEntropy(Loss):
    """Cross entropy with label smoothing, averaged over all masked tokens of the batch (paper equation 1).

    Args:
        label_smoothing: s in (1 - s) NLL + s mean negative log-probability.
    """

    needs_codes = True

    def __init__(self, *, label_smoothing: Probability = 0.1) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, inputs: LossInputs) -> LossTerm:
        """Sum the rows' losses."""
        log_p_MV = inputs.predictions_MX.float().log_softmax(dim=-1)
        nll_M = -log_p_MV.gather(1, inputs.targets_M[:, None])[:, 0]
        rows_M: Tensor = (1 - self.label_smoothing) * nll_M - self.label_smoothing * log_p_MV.mean(dim=-1)
        hits_M = (log_p_MV.detach().argmax(dim=-1) == inputs.targets_M).float()
        return LossTerm((rows_M * inputs.weight_M).sum(), rows_M.detach(), hits_M)

    def count(self, masks: BatchMasks) -> float:
        """Return the number of masked tokens."""
        return float(masks.masked_tokens)
