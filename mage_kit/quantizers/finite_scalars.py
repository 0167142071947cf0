"""Finite scalar quantization (Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple", section 3).

Each of W features is bounded by a tanh and rounded to one of its levels; a code is the W rounded values, and every
combination is one: nothing is learned, and nothing can collapse. With L levels and h = (L - 1) / 2 (a thousandth more,
so that rounding reaches both ends) a feature z becomes tanh(z + s) h - o. For even L the levels lie half a step off
zero: o = 1/2, and tanh(s) = o / h keeps 0 at 0.

Legend: B images, L tokens, V codes, W code width.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from mage_kernels.autocasting import without_autocast
from pydantic import Field
from torch import Tensor

from mage_kit.quantizers.base import QUANTIZERS, Quantized, Quantizer

Levels = Annotated[int, Field(ge=2, le=2**16)]
_REACH = 1e-3
_MOST = 2**31  # codes


@QUANTIZERS.register("fsq")
class FSQ(Quantizer):
    """One of a few levels for each of W features; ids and codes are one to one.

    Args:
        levels: Levels of each feature, W of them; V is their product. The paper's: (8, 6, 5) for 240, (8, 5, 5, 5) for
            1,000, (7, 5, 5, 5, 5) for 4,375, (8, 8, 8, 6, 5) for 15,360, (8, 8, 8, 5, 5, 5) for 64,000 codes.

    Raises:
        ValueError: If there are none, or more than 2^31 codes.
    """

    alike = frozenset({"fsq"})

    def __init__(self, *, levels: tuple[Levels, ...] = (8, 5, 5, 5)) -> None:
        super().__init__()
        if not levels or math.prod(levels) > _MOST:
            raise ValueError(f"levels: {list(levels)}, must be at least one, of a product of at most 2^31")
        self.levels = tuple(levels)
        self.codes, self.width = math.prod(levels), len(levels)

    def nearest(self, features_BLW: Tensor) -> Tensor:
        """Return ids (B, L), int64: the first feature's level counts ones, the second's so many more, and so on."""
        with torch.no_grad(), without_autocast(features_BLW):
            return self._ids(self._bounded(features_BLW.detach().float()).round())

    def lookup(self, ids_BL: Tensor) -> Tensor:
        """Return the codes (B, L, W), in [-1, 1], float32."""
        values, rest_BL = [], ids_BL
        for level in self.levels:
            values.append((rest_BL % level - level // 2) / (level // 2))
            rest_BL = rest_BL.div(level, rounding_mode="floor")
        return torch.stack(values, dim=-1)

    def prepare(self, features: Tensor) -> Tensor:
        """Return features (..., W) bounded, in units of the codes."""
        return self._in_units(self._bounded(features))

    def means(self, weights_BLV: Tensor) -> Tensor:
        """Return weighted means (B, L, W) of the codes."""
        codes_VW = self.lookup(torch.arange(self.codes, device=weights_BLV.device))
        return weights_BLV @ codes_VW.to(weights_BLV.dtype)

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> Quantized:
        """Round, straight through; no loss is needed."""
        with without_autocast(features_BLW):
            bounded_BLW = self._bounded(features_BLW.float())
            rounded_BLW = bounded_BLW.detach().round()
            through_BLW = self._in_units(bounded_BLW + (rounded_BLW - bounded_BLW).detach())
            return Quantized(through_BLW, self._ids(rounded_BLW), features_BLW.new_zeros(()))

    def _bounded(self, features: Tensor) -> Tensor:
        """Features (..., W) in steps of their levels. Numbers stay Python's: a graph on a GPU cannot copy them in."""
        values = []
        for level, value in zip(self.levels, features.unbind(dim=-1), strict=True):
            half, offset = (level - 1) * (1 + _REACH) / 2, (level + 1) % 2 / 2
            values.append((value + math.atanh(offset / half)).tanh() * half - offset)
        return torch.stack(values, dim=-1)

    def _in_units(self, steps: Tensor) -> Tensor:
        return torch.stack([v / (level // 2) for level, v in zip(self.levels, steps.unbind(-1), strict=True)], dim=-1)

    def _ids(self, rounded_BLW: Tensor) -> Tensor:
        ids_BL, unit = torch.zeros(rounded_BLW.shape[:-1], dtype=torch.int64, device=rounded_BLW.device), 1
        for level, value_BL in zip(self.levels, rounded_BLW.unbind(dim=-1), strict=True):
            ids_BL = ids_BL + (value_BL.long() + level // 2) * unit
            unit *= level
        return ids_BL
