"""PatchGAN (Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks"), as VQGAN has it."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn

from mage_kit.adversaries.base import ADVERSARIES, Adversary, Halvings, Width, check_side

_WIDEST = 8  # times the first layer's width
_SLOPE = 0.2
_DEVIATION = 0.02  # of weights before training
_GROUPS = 32


@ADVERSARIES.register("patchgan")
class PatchGAN(Adversary):
    """4 x 4 convolutions: halvings that double the width, then two at stride 1; a judgement a patch.

    Args:
        width: Of the first layer.
        halvings: Convolutions of stride 2; each of 64, 128, 256 ... channels at most eight times the first's.
        norm: "group" (32 groups, or fewer where the width is less), or "batch" as published, whose result depends on
            how many images are at once in a process.

    Raises:
        ValueError: If the pictures are too small for so many halvings.
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        *,
        width: Width = 64,
        halvings: Halvings = 3,
        norm: Literal["group", "batch"] = "group",
    ) -> None:
        super().__init__()
        self.width, self.halvings, self.norm = width, halvings, norm
        check_side("patchgan", image_size, 3 * 2**halvings)
        widths = [width * min(2**number, _WIDEST) for number in range(halvings + 1)]
        main: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, padding=1), nn.LeakyReLU(_SLOPE)]
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 2 if number + 1 < halvings else 1
            main += [nn.Conv2d(before, after, 4, stride, padding=1, bias=False), self._norm(after)]
            main.append(nn.LeakyReLU(_SLOPE))
        main.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*main)  # the authors' names
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=_DEVIATION)
            elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm):
                nn.init.normal_(part.weight, 1.0, _DEVIATION)

    def _norm(self, width: int) -> nn.Module:
        if self.norm == "batch":
            return nn.BatchNorm2d(width)
        return nn.GroupNorm(_GROUPS if width % _GROUPS == 0 else 1, width)

    def judge(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, h, w)."""
        judgements: Tensor = self.main(images_BCHW)
        return judgements
