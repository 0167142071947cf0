"""VQGAN+'s discriminator (Weber et al., "MaskBit: Embedding-free Image Generation via Bit Tokens", section 2)."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.adversaries.base import ADVERSARIES, Adversary, Halvings, Width, blur_halved, check_side

_GROUPS = 32
_SLOPE = 0.1


@ADVERSARIES.register("vqgan_plus")
class VQGANPlusAdversary(Adversary):
    """3 x 3 convolutions, blurred halvings, group norm, pooled to the tokens' grid.

    Args:
        width: Of the first stage; each next is twice as wide.
        halvings: Stages; null for as many as the tokenizer halves the picture.

    Raises:
        ValueError: If the pictures are too small for so many halvings, or the width is no multiple of 32.
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        grid: tuple[int, int],
        *,
        width: Width = 128,
        halvings: Halvings | None = None,
    ) -> None:
        super().__init__()
        self.width, self.halvings = width, halvings
        if width % _GROUPS:
            raise ValueError(f"width: {width}, must be a multiple of {_GROUPS}")
        stages = halvings or max(1, (image_size[0] // grid[0]).bit_length() - 1)
        check_side("vqgan_plus", image_size, 2**stages)
        self._grid = tuple(min(side // 2**stages, tokens) for side, tokens in zip(image_size, grid, strict=True))
        self.first = nn.Conv2d(channels, width, 5, padding=2)
        widths = [width, *(width * 2**number for number in range(stages))]
        self.stages = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(before, after, 3, padding=1), "norm": nn.GroupNorm(_GROUPS, after)})
            for before, after in itertools.pairwise(widths)
        )
        self.mix = nn.Conv2d(widths[-1], widths[-1], 1)
        self.last = nn.Conv2d(widths[-1], 1, 5, padding=2)

    def judge(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, h, w)."""
        x = F.leaky_relu(self.first(images_BCHW), _SLOPE)
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleDict)
            x = F.leaky_relu(stage["norm"](blur_halved(stage["conv"](x))), _SLOPE)
        x = F.adaptive_max_pool2d(x, self._grid)
        judgements: Tensor = self.last(F.leaky_relu(self.mix(x), _SLOPE))
        return judgements
