"""Codes that are signs: a bit a feature, no codebook (Yu et al., MAGVIT-v2, section 3; Zhao et al., BSQ, section 4).

A code is +-a in each of n features. With logits -|z - c|^2 / T the terms without c cancel, and what is left is a sum
over features: p(c|z) = prod_i sigmoid(4 a s_i z_i / T), s_i the signs of c. So H(p) is the sum of the bits' entropies,
exactly. E[p] is no product: 2^n shares. With the bits in two halves p is an outer product of 2^(n/2) by 2^(n/2), and
its mean over features one matrix product of tables (F, 2^(n/2)): for 18 bits two tables of 512 columns instead of
one of 262,144.

Legend: B images, L tokens, W features (bits of all factors), F ids a token, n bits an id, R rows: tokens of all images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import without_autocast
from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat, Positive, PositiveFloat
from mage_kit.quantizers.assignments import entropy_gap
from mage_kit.quantizers.base import QUANTIZERS, Quantized, Quantizer

MOST_BITS = 18  # of an id: a model's head gives a number for each of 2^n codes


class Signs(Quantizer):
    """The sign of each feature.

    Args:
        bits: Features of a token, W.
        factors: Ids that they are cut into, F, each of bits / factors bits and 2^(bits / factors) codes.
        entropy: Weight of E[H(p)] - H(E[p]), the mean over factors.
        temperature: T of the soft assignment.
        commitment: Weight of the features' squared distance to their codes.

    Raises:
        ValueError: If factors do not divide bits, or an id has more than 18 bits.
    """

    weightless = frozenset({"entropy", "temperature", "commitment"})
    size = 1.0  # a: of a code in each feature

    def __init__(
        self,
        *,
        bits: Positive = 10,
        factors: Positive = 1,
        entropy: NonNegativeFloat = 0.1,
        temperature: PositiveFloat = 1.0,
        commitment: NonNegativeFloat = 0.25,
    ) -> None:
        super().__init__()
        if bits % factors:
            raise ValueError(f"factors: {factors}, must divide bits ({bits})")
        if bits // factors > MOST_BITS:
            rule = f"must be at most {MOST_BITS} an id; raise factors"
            raise ValueError(f"bits: {bits} over {factors} factors, {rule}")
        self.bits, self.factors = bits, factors
        self.entropy, self.temperature, self.commitment = entropy, temperature, commitment
        self.width, self.codes = bits, 2 ** (bits // factors)

    def nearest(self, features_BLW: Tensor) -> Tensor:
        """Return ids (B, L), or (B, L, F), int64; bit i of an id is the sign of its feature i, 0 for one below 0."""
        bits_BLFn = (features_BLW.detach() > 0).long().unflatten(-1, (self.factors, -1))
        ids_BLF: Tensor = (bits_BLFn << self._places(bits_BLFn)).sum(dim=-1)
        return ids_BLF[..., 0] if self.factors == 1 else ids_BLF

    def lookup(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W), float32."""
        ids_BLF = ids_BL[..., None] if self.factors == 1 else ids_BL
        bits_BLFn = (ids_BLF[..., None] >> self._places(ids_BL)) & 1
        return (2 * bits_BLFn - 1).flatten(-2).float() * self.size

    def _places(self, like: Tensor) -> Tensor:
        return torch.arange(self.bits // self.factors, device=like.device)

    def means(self, weights_BLV: Tensor) -> Tensor:
        """Return weighted means (B, L, W) of the codes.

        Args:
            weights_BLV: Floating weights of each code; (B, L, F, V) where a token has F ids.
        """
        ids = torch.arange(self.codes, device=weights_BLV.device)
        codes_Vn = (2 * ((ids[:, None] >> self._places(ids)) & 1) - 1).to(weights_BLV.dtype) * self.size
        means = weights_BLV @ codes_Vn
        return means if self.factors == 1 else means.flatten(-2)

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Take signs, straight through."""
        with without_autocast(features_BLW):
            prepared_BLW = self.prepare(features_BLW.float())
            ids_BL = self.nearest(prepared_BLW)
            codes_BLW = self.lookup(ids_BL)
            commitment = F.mse_loss(prepared_BLW, codes_BLW)
            loss, parts = self.commitment * commitment, {"commitment": commitment.detach()}
            if self.entropy:
                gap, perplexity = self.gap(prepared_BLW)
                loss, parts = loss + self.entropy * gap, parts | {"entropy": gap.detach(), "perplexity": perplexity}
            through_BLW = prepared_BLW + (codes_BLW - prepared_BLW).detach()
        return Quantized(through_BLW, ids_BL, loss, parts)

    def gap(self, prepared_BLW: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[H(p)] - H(E[p]), and the perplexity of E[p]: means over factors.

        Args:
            prepared_BLW: float32 features, as `prepare` gives them.
        """
        odds_RFn = (prepared_BLW * (4 * self.size / self.temperature)).flatten(0, -2).unflatten(-1, (self.factors, -1))
        sure_F = bit_entropy(odds_RFn).sum(dim=-1).mean(dim=0)
        gaps = [
            entropy_gap(sure, mean_shares(odds_Rn)) for sure, odds_Rn in zip(sure_F, odds_RFn.unbind(1), strict=True)
        ]
        gap, perplexity = (torch.stack(column).mean() for column in zip(*gaps, strict=True))
        return gap, perplexity


@QUANTIZERS.register("lfq")
class LFQ(Signs):
    """Lookup-free quantization: codes +-1 (MAGVIT-v2)."""

    alike = frozenset({"lfq"})


@QUANTIZERS.register("bsq")
class BSQ(Signs):
    """Binary spherical quantization: features and codes of length 1, codes +-1 / sqrt(bits)."""

    alike = frozenset({"bsq"})

    @property
    def size(self) -> float:  # type: ignore[override]  # a constant of the class in the base
        """Of a code in each feature."""
        return float(self.bits**-0.5)

    def prepare(self, features: Tensor) -> Tensor:
        """Return features (..., W) at length 1."""
        return F.normalize(features, dim=-1)


def bit_entropy(odds: Tensor) -> Tensor:
    """Return the entropy in nats of bits that are 1 with probability sigmoid(odds)."""
    return F.softplus(odds) - odds * torch.sigmoid(odds)


def mean_shares(odds_Rn: Tensor) -> Tensor:
    """Return the mean over rows of the 2^n shares of codes whose bits are independent in each row.

    Args:
        odds_Rn: Log-odds of each bit; bit 0 changes fastest in the result.
    """
    low_Rn, high_Rn = odds_Rn.tensor_split([odds_Rn.shape[-1] // 2], dim=-1)
    return ((_shares(high_Rn).T @ _shares(low_Rn)) / len(odds_Rn)).flatten()


def _shares(odds_Rn: Tensor) -> Tensor:
    """Shares of the 2^n codes, row by row (R, 2^n)."""
    places = torch.arange(odds_Rn.shape[-1], device=odds_Rn.device)
    codes = torch.arange(2 ** odds_Rn.shape[-1], device=odds_Rn.device)
    set_nV = ((codes >> places[:, None]) & 1).to(odds_Rn.dtype)
    return (F.logsigmoid(odds_Rn) @ set_nV + F.logsigmoid(-odds_Rn) @ (1 - set_nV)).exp()
