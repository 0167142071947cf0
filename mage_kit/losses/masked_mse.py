"""MAE's loss: squared error over the values of masked tokens."""

from __future__ import annotations

from torch import Tensor

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
            mean_M1, deviation_M1 = _moments(targets_MW)
            targets_MW = (targets_MW - mean_M1) / deviation_M1
        rows_M = (inputs.predictions_MX.float() - targets_MW).pow(2).mean(dim=-1)
        return LossTerm((rows_M * inputs.weight_M).sum(), rows_M.detach())

    def token_values(self, predictions: Tensor, tokens: Tensor) -> Tensor:
        """Undo the normalisation by the true token's mean and deviation, as published pictures of MAE do."""
        if not self.normalize:
            return predictions
        mean, deviation = _moments(tokens)
        return predictions * deviation + mean

    def count(self, masks: BatchMasks) -> float:
        """Return the number of masked tokens."""
        return float(masks.masked_tokens)


def _moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the values of each token, (..., 1)."""
    variance = tokens.var(dim=-1, keepdim=True, correction=min(1, tokens.shape[-1] - 1))
    return tokens.mean(dim=-1, keepdim=True), (variance + 1e-6).sqrt()
