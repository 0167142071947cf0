"""A head written outside of mage_kit: values of a token as a Gaussian each, so that a model without codes generates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import mage_kit as mk


@mk.HEADS.register("gaussian")
class GaussianHead(mk.Head):
    """A linear layer to mean and log-deviation of each of a token's W values."""

    needs_codes, draws = False, True

    def __init__(self, spec: mk.TokenSpec, decoder_dim: int) -> None:
        super().__init__()
        self.spec = spec
        self.fc = nn.Linear(decoder_dim, 2 * spec.width)

    def forward(self, features_ME: Tensor, embedding: nn.Module) -> Tensor:
        return self.fc(features_ME)

    def rows(self, predictions_MX: Tensor, targets_M: Tensor) -> mk.LossRows:
        return mk.LossRows(-self.log_p(predictions_MX, targets_M))

    def draw(
        self, predictions_BLX: Tensor, uniform_BL: Tensor, masked_BL: Tensor | None, rule: mk.DrawRule
    ) -> mk.TokenDraw:
        mean_BLW, log_BLW = self._split(predictions_BLX)
        normal_BLW = torch.special.ndtri(mk.more_uniforms(uniform_BL, self.spec.width)).float()
        values_BLW = mean_BLW + rule.temperature * log_BLW.exp() * normal_BLW
        log_p_BL = self.log_p(predictions_BLX, values_BLW)
        return mk.TokenDraw(values_BLW, log_p_BL if masked_BL is None else log_p_BL.masked_fill(~masked_BL, 0.0), None)

    def log_p(self, predictions_BLX: Tensor, ids_BL: Tensor) -> Tensor:
        mean, log = self._split(predictions_BLX)
        return -(0.5 * ((ids_BL.float() - mean) / log.exp()).square() + log + 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def _split(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        mean, log = predictions.float().chunk(2, dim=-1)
        return mean, log.clamp(-4, 2)
