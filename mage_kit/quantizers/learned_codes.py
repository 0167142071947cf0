"""A codebook that follows a gradient (van den Oord et al., "Neural Discrete Representation Learning", equation 3)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.quantizers.base import QUANTIZERS, Quantized
from mage_kit.quantizers.codebook import Codebook


@QUANTIZERS.register("gradient")
class GradientCodebook(Codebook):
    """Codes that follow the gradient of their squared distance to what they encode."""

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Quantize; the loss has the codes' own term, whose gradient reaches the codes alone."""
        prepared_BLW = self.prepare(features_BLW)
        result, codes_BLW = self.look_up(prepared_BLW)
        return replace(result, loss=result.loss + F.mse_loss(codes_BLW, prepared_BLW.detach()))
