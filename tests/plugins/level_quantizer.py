"""A quantizer written outside of mage_kit: each value of a feature becomes one of a few levels, without a codebook."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import mage_kit as mk


@mk.QUANTIZERS.register("levels")
class LevelQuantizer(mk.Quantizer):
    """Finite scalar quantization (Mentzer et al., 2023): tanh, then the nearest of the levels, value by value.

    Args:
        levels: Levels of each value, odd; their product is the number of codes.
    """

    def __init__(self, *, levels: tuple[mk.Positive, ...] = (5, 5, 3)) -> None:
        super().__init__()
        if not levels or any(count % 2 == 0 for count in levels):
            raise ValueError(f"levels: {levels}, must be odd numbers, at least one")
        self.levels, self.codes, self.width = levels, math.prod(levels), len(levels)
        self.register_buffer("half_W", torch.tensor(levels) // 2, persistent=False)
        strides = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("stride_W", torch.tensor(strides), persistent=False)

    def prepare(self, features: Tensor) -> Tensor:
        return features.tanh()

    @torch.no_grad()
    def nearest(self, features_BLW: Tensor) -> Tensor:
        return (((self.prepare(features_BLW) * self.half_W).round().long() + self.half_W) * self.stride_W).sum(dim=-1)

    def lookup(self, ids_BL: Tensor) -> Tensor:
        digits = ids_BL[..., None] // self.stride_W % (2 * self.half_W + 1)
        return (digits - self.half_W) / self.half_W.clamp_min(1)

    def forward(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> mk.Quantized:
        bounded_BLW, ids_BL = self.prepare(features_BLW), self.nearest(features_BLW)
        codes_BLW = bounded_BLW + (self.lookup(ids_BL) - bounded_BLW).detach()
        return mk.Quantized(codes_BLW, ids_BL, codes_BLW.new_zeros(()))
