"""Codebooks: the nearest of V codes, found in chunks, and the look-up. How the codes move is the subclasses' matter.

|z - c|^2 = |z|^2 - 2 z.c + |c|^2 is smallest for the nearest code. A table of distances has F x V numbers, 4.3 GB for
65,536 features and 16,384 codes. Its rows are independent of one another: some are taken at a time, only ids are kept.

Legend: B images, L tokens, V codes, W code width, F = B x L features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import without_autocast
from torch import Tensor, nn

from mage_kit.base.doors import is_exporting
from mage_kit.base.fields import NonNegativeFloat, Positive, PositiveFloat
from mage_kit.quantizers.assignments import assignment_gap
from mage_kit.quantizers.base import Quantized, Quantizer

CHUNK = 2**24  # distances at once: 64 MiB of float32, and twice that for a moment


class Codebook(Quantizer):
    """V codes of width W; squared Euclidean distance.

    Args:
        codes: Number of codes, V.
        width: Width of a code, W.
        unit: Features and codes are divided by their length before use, which makes it the cosine that counts.
        commitment: beta, the weight of the features' distance to their codes.
        entropy: Weight of E[H(p)] - H(E[p]), p = softmax(-squared distance / T) (MaskGIT's tokenizer has 0.1); 0: none.
        temperature: T.
    """

    weightless = frozenset({"commitment", "entropy", "temperature"})
    alike = frozenset({"ema", "gradient"})

    def __init__(
        self,
        *,
        codes: Positive = 1024,
        width: Positive = 256,
        unit: bool = False,
        commitment: NonNegativeFloat = 0.25,
        entropy: NonNegativeFloat = 0.0,
        temperature: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.codes, self.width, self.unit = codes, width, unit
        self.commitment, self.entropy, self.temperature = commitment, entropy, temperature
        self.is_trained = False  # fresh codes are placed on features first; trained ones stay where they are
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.is_trained = True

    def finish_training(self) -> None:
        """Know that the codes are trained."""
        self.is_trained = True

    def table(self) -> Tensor:
        """Return the codes (V, W), before `prepare`."""
        return self.embedding.weight

    def rows(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W) of ids, before `prepare`."""
        codes_BLW: Tensor = self.embedding(ids_BL)
        return codes_BLW

    @torch.no_grad()
    def nearest(self, features_BLW: Tensor) -> Tensor:
        """Return the nearest codes' ids (B, L), int64; computed in float32, in chunks of rows."""
        with without_autocast(features_BLW):
            features_FW = self.prepare(features_BLW.detach().float()).flatten(0, -2)
            codes_VW = self.prepare(self.table().detach().float())
            square_V = codes_VW.pow(2).sum(dim=-1)
            # In an exported graph the number of chunks would be fixed, and with it the batch: there it is one.
            chunks = (features_FW,) if is_exporting() else features_FW.split(max(1, CHUNK // self.codes))
            ids = [self._ids(part, codes_VW, square_V) for part in chunks]
        return torch.cat(ids).view(features_BLW.shape[:-1])

    def _ids(self, features_FW: Tensor, codes_VW: Tensor, square_V: Tensor) -> Tensor:
        # |z|^2 is the same for every code and cannot change the choice, but keeps published rounding.
        square_F1 = features_FW.pow(2).sum(dim=-1, keepdim=True)
        return (square_F1 - 2 * features_FW @ codes_VW.T + square_V).argmin(dim=-1)

    def lookup(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W), at unit length where that is the rule."""
        return self.prepare(self.rows(ids_BL))

    def prepare(self, features: Tensor) -> Tensor:
        """Return features or codes (..., W) as they are compared and decoded."""
        return F.normalize(features, dim=-1) if self.unit else features

    def means(self, weights_BLV: Tensor) -> Tensor:
        """Return weighted means (B, L, W) of the codes."""
        codes_VW = self.prepare(self.table())
        return weights_BLV.to(codes_VW.dtype) @ codes_VW

    def look_up(self, features_BLW: Tensor) -> tuple[Quantized, Tensor]:
        """Quantize prepared features by the codes as they stand; return that, and the codes (B, L, W) themselves."""
        ids_BL = self.nearest(features_BLW)
        codes_BLW = self.lookup(ids_BL)
        commitment = F.mse_loss(features_BLW, codes_BLW.detach())
        through_BLW = features_BLW + (codes_BLW - features_BLW).detach()
        loss, parts = self.commitment * commitment, {"commitment": commitment.detach()}
        if self.entropy:
            gap, perplexity = self._gap(features_BLW)
            loss, parts = loss + self.entropy * gap, parts | {"entropy": gap.detach(), "perplexity": perplexity}
        return Quantized(through_BLW, ids_BL, loss, parts), codes_BLW

    def _gap(self, features_BLW: Tensor) -> tuple[Tensor, Tensor]:
        """The entropy gap of soft choices by distance, and the perplexity; gradients reach features and codes."""
        with without_autocast(features_BLW):
            codes_VW = self.prepare(self.table().float())
            square_V = codes_VW.pow(2).sum(dim=-1)
            # |z|^2 is the same for every code: softmax does not see it.
            keys_VW, bias_V = 2 * codes_VW / self.temperature, -square_V / self.temperature
            return assignment_gap(features_BLW.float().flatten(0, -2), keys_VW, bias_V)
