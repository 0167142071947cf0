"""A codebook that follows a gradient (van den Oord et al., "Neural Discrete Representation Learning", equation 3)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat, Positive
from mage_kit.quantizers.base import QUANTIZERS, Quantized
from mage_kit.quantizers.codebook import Codebook


@QUANTIZERS.register("gradient")
class GradientCodebook(Codebook):
    """Codes that follow the gradient of their squared distance to what they encode.

    Args:
        codes: Number of codes, V.
        width: Width of a code, W.
        unit: Features and codes are divided by their length before use, which makes it the cosine that counts.
        commitment: beta, the weight of the features' distance to their codes.
    """

    def __init__(
        self,
        *,
        codes: Positive = 1024,
        width: Positive = 256,
        unit: bool = False,
        commitment: NonNegativeFloat = 0.25,
    ) -> None:
        super().__init__(codes, width, unit, commitment)

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Quantize; the loss has the codes' own term, whose gradient reaches the codes alone."""
        prepared_BLW = self.prepare(features_BLW)
        made, codes_BLW = self.look_up(prepared_BLW)
        return replace(made, loss=made.loss + F.mse_loss(codes_BLW, prepared_BLW.detach()))
