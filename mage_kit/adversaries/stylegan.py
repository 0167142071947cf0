"""StyleGAN2's discriminator in MaskGIT's form (Karras et al., 2020; Chang et al., 2022): residual, blurred, no norm."""

from __future__ import annotations

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.adversaries.base import ADVERSARIES, Adversary, Width, blur_halved, check_side

_SLOPE = 0.2
_LAST = 4  # pixels a side of what the linear layers see


class _Halving(nn.Module):
    """Two 3 x 3 convolutions and a blurred halving, beside a blurred halving and a 1 x 1; summed over sqrt 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.second = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2)."""
        hidden = blur_halved(F.leaky_relu(self.first(x), _SLOPE))
        hidden = F.leaky_relu(self.second(hidden), _SLOPE)
        out: Tensor = (hidden + self.shortcut(blur_halved(x))) / math.sqrt(2)
        return out


@ADVERSARIES.register("stylegan")
class StyleGANAdversary(Adversary):
    """Halved to 4 x 4, then two linear layers: one judgement a picture. 24.0M weights at 256 pixels.

    Args:
        widest: Channels from 32 x 32 down; half as many at each doubling above.

    Raises:
        ValueError: If the pictures are no power of two a side, the same each way, and at least 8.
    """

    def __init__(self, channels: int, image_size: tuple[int, int], *, widest: Width = 512) -> None:
        super().__init__()
        self.widest = widest
        check_side("stylegan", image_size, 2 * _LAST)
        side = image_size[0]
        if image_size != (side, side) or side & (side - 1):
            rule = "must be square, of a power of two"
            raise ValueError(f"adversary 'stylegan': images of {image_size[0]}x{image_size[1]}, {rule}")
        sides = [side]
        while sides[-1] > _LAST:
            sides.append(sides[-1] // 2)
        widths = [max(1, min(widest, widest * 32 // size)) for size in sides]
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.halvings = nn.Sequential(*(_Halving(*pair) for pair in itertools.pairwise(widths)))
        self.last = nn.Conv2d(widths[-1], widest, 3, padding=1)
        self.hidden = nn.Linear(widest * _LAST * _LAST, widest)
        self.out = nn.Linear(widest, 1)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def judge(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1)."""
        x = self.halvings(F.leaky_relu(self.first(images_BCHW), _SLOPE))
        x = F.leaky_relu(self.last(x), _SLOPE).flatten(1)
        judgements: Tensor = self.out(F.leaky_relu(self.hidden(x), _SLOPE))
        return judgements
