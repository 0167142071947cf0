"""A head written outside of mage_kit: a code's bits, each predicted by itself, as masked bit modeling does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mage_kit as mk


@mk.HEADS.register("bits")
class BitHead(mk.Head):
    """Linear layers to log2 V logits; a code is drawn bit by bit from one uniform number (V a power of two).

    Args:
        hidden: Width between.
    """

    needs_codes, draws = True, True

    def __init__(self, spec: mk.TokenSpec, decoder_dim: int, *, hidden: mk.Positive = 64) -> None:
        super().__init__()
        self.spec, self.hidden = spec, hidden
        self.bits = (spec.codes - 1).bit_length()
        self.layers = nn.Sequential(nn.Linear(decoder_dim, hidden), nn.GELU(), nn.Linear(hidden, self.bits))

    def forward(self, features_ME: Tensor, embedding: nn.Module) -> Tensor:
        return self.layers(features_ME)

    def rows(self, predictions_MX: Tensor, targets_M: Tensor) -> mk.LossRows:
        wanted_MX = self._bits(targets_M)
        loss_MX = F.binary_cross_entropy_with_logits(predictions_MX.float(), wanted_MX, reduction="none")
        return mk.LossRows(loss_MX.sum(dim=1), ((predictions_MX > 0) == (wanted_MX > 0)).all(dim=1).float())

    def draw(
        self, predictions_BLX: Tensor, uniform_BL: Tensor, masked_BL: Tensor | None, rule: mk.DrawRule
    ) -> mk.TokenDraw:
        rest_BL, bits = uniform_BL.double(), []
        for p_BL in (predictions_BLX.double() / max(rule.temperature, 1e-6)).sigmoid().unbind(dim=-1):
            one_BL = rest_BL < p_BL  # what is left of the number is uniform again on the side that it fell on
            rest_BL = torch.where(one_BL, rest_BL / p_BL, (rest_BL - p_BL) / (1 - p_BL)).clamp(1e-12, 1 - 1e-12)
            bits.append(one_BL)
        ids_BL = sum(bit.long() << place for place, bit in enumerate(bits))
        log_p_BL = self.log_p(predictions_BLX, ids_BL)
        return mk.TokenDraw(ids_BL, log_p_BL if masked_BL is None else log_p_BL.masked_fill(~masked_BL, 0.0), None)

    def log_p(self, predictions_BLX: Tensor, ids_BL: Tensor) -> Tensor:
        return -F.softplus(predictions_BLX.float() * (1 - 2 * self._bits(ids_BL))).sum(dim=-1)

    def _bits(self, ids: Tensor) -> Tensor:
        return ((ids[..., None] >> torch.arange(self.bits, device=ids.device)) & 1).float()
