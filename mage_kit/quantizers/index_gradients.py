"""IBQ (Shi et al., "Taming Scalable Visual Tokenizer for Autoregressive Image Generation", section 3).

With p = softmax(z . c) and h the one-hot of its largest, the code is (h - sg(p) + p) C: the value of one code, with the
gradient of all of them, so that a code that no feature chose learns too. sg() is stop-gradient. Of p C only the
gradient is needed, and only p's: C gets its own through h.

Legend: B images, L tokens, V codes, W code width, R rows of a part.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import without_autocast
from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat
from mage_kit.quantizers.assignments import assignment_gap
from mage_kit.quantizers.base import QUANTIZERS, Quantized
from mage_kit.quantizers.codebook import Codebook
from mage_kit.quantizers.soft_tables import soft_means


@QUANTIZERS.register("ibq")
class IBQ(Codebook):
    """The code with the largest dot product; gradients reach every code through the soft choice.

    `commitment` weighs the codes' distance to the features, as the paper's beta does; the features' own terms weigh 1.
    """

    alike = frozenset({"ibq"})

    def __init__(self, *, entropy: NonNegativeFloat = 0.05, **shared: Any) -> None:
        super().__init__(entropy=entropy, **shared)

    def _ids(self, features_FW: Tensor, codes_VW: Tensor, square_V: Tensor) -> Tensor:
        return (features_FW @ codes_VW.T).argmax(dim=-1)

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Choose softly, straight to one code."""
        with without_autocast(features_BLW):
            prepared_BLW = self.prepare(features_BLW.float())
            ids_BL = self.nearest(prepared_BLW)
            hard_BLW = self.lookup(ids_BL)
            soft_BLW, gap, perplexity = self._soft(prepared_BLW)
            codes_BLW = hard_BLW + (soft_BLW - soft_BLW.detach())
            commitment = F.mse_loss(hard_BLW.detach(), prepared_BLW)
            loss = F.mse_loss(codes_BLW, prepared_BLW) + commitment
            loss = loss + self.commitment * F.mse_loss(hard_BLW, prepared_BLW.detach()) + self.entropy * gap
        parts = {"commitment": commitment.detach(), "entropy": gap.detach(), "perplexity": perplexity}
        return Quantized(codes_BLW, ids_BL, loss, parts)

    def _soft(self, prepared_BLW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of the codes by p (B, L, W), the entropy gap at the temperature, and the perplexity."""
        codes_VW = self.prepare(self.table().float())
        rows_FW = prepared_BLW.flatten(0, -2)
        none_V = codes_VW.new_zeros(self.codes)
        gap, perplexity = assignment_gap(rows_FW, codes_VW / self.temperature, none_V)
        return soft_means(rows_FW, codes_VW).view_as(prepared_BLW), gap, perplexity
