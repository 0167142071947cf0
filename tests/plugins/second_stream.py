"""A loss on a second stream, written outside of mage_kit: the codes of another tokenizer, hard ones weighing more."""

from __future__ import annotations

import torch.nn.functional as F

import mage_kit as mk


@mk.LOSSES.register("named_codes")
class NamedCodes(mk.Loss):
    """Cross entropy over another tokenizer's codes, harder tokens weighing more (focal).

    Args:
        stream: Whose codes are predicted.
        focus: Power of the probability of being wrong.
    """

    needs_codes = True

    def __init__(self, *, stream: str, focus: mk.NonNegativeFloat = 0.5) -> None:
        super().__init__()
        self.stream, self.focus = stream, focus

    def forward(self, inputs: mk.LossInputs) -> mk.LossTerm:
        nll_M = F.cross_entropy(inputs.predictions_MX, inputs.targets_M, reduction="none")
        rows_M = (1 - (-nll_M).exp()) ** self.focus * nll_M
        hits_M = (inputs.predictions_MX.argmax(dim=1) == inputs.targets_M).float()
        return mk.LossTerm((rows_M * inputs.weight_M).sum(), rows_M.detach(), hits_M)

    def count(self, masks: mk.BatchMasks) -> float:
        return float(masks.masked_tokens)
