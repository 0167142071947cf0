"""MAE's loss: squared error over the values of masked tokens."""

from __future__ import annotations

from mage_kit.losses.base import LOSSES, BatchMasks, Loss, LossInputs, LossTerm


@LOSSES.register("masked_mse")
class MaskedMSE(Loss):
    """Mean squared error over masked patches (He et al., MAE, section 3).

    Args:
        normalize: Compare with each patch's values less their mean over their standard deviation.
        stream: Whose values are predicted; "tokens" are the model's own tokenizer's.
    """

    needs_codes = False

    def __init__(self, *, normalize: bool = True, stream: str = "tokens") -> None:
        super().__init__()
        self.normalize, self.stream = normalize, stream

    def forward(self, inputs: LossInputs) -> LossTerm:
        """Sum the rows' mean squared errors."""
        targets_MW = inputs.targets_M.float()
        if self.normalize:
            mean_M1 = targets_MW.mean(dim=-1, keepdim=True)
            variance_M1 = targets_MW.var(dim=-1, keepdim=True, correction=min(1, targets_MW.shape[-1] - 1))
            targets_MW = (targets_MW - mean_M1) / (variance_M1 + 1e-6).sqrt()
        rows_M = (inputs.predictions_MX.float() - targets_MW).pow(2).mean(dim=-1)
        return LossTerm((rows_M * inputs.weight_M).sum(), rows_M.detach())

    def count(self, masks: BatchMasks) -> float:
        """Return the number of masked tokens."""
        return float(masks.masked_tokens)
