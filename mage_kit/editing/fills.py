"""What stands under the mask when the picture is tokenised: colours of the unmasked pixels alone.

Every token sees the whole picture (the tokenizer's norms average over it), so no distance from the hole would keep what
lies in it from being seen; it has to be gone. Legend: C channels, H x W pixels. `True = masked`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_GREY = 0.5  # where nothing is known at all


def mean(image_CHW: Tensor, masked_HW: Tensor) -> Tensor:
    """Fill with the mean colour of the unmasked pixels."""
    known_HW = ~masked_HW
    if not bool(known_HW.any()):
        return torch.full_like(image_CHW, _GREY)
    colour_C = image_CHW[:, known_HW].mean(dim=1)
    return torch.where(masked_HW, colour_C[:, None, None], image_CHW)


def edge(image_CHW: Tensor, masked_HW: Tensor) -> Tensor:
    """Fill with the colours along the hole's edge, the blurrier the farther in: a pyramid of means of known pixels."""
    if bool(masked_HW.all()):
        return torch.full_like(image_CHW, _GREY)
    if not bool(masked_HW.any()):
        return image_CHW
    height, width = masked_HW.shape
    known_1HW = (~masked_HW)[None].to(image_CHW.dtype)
    padding = (0, width % 2, 0, height % 2)  # zeros, which are not known
    colours = F.avg_pool2d(F.pad(torch.where(masked_HW, 0.0, image_CHW), padding)[None], 2)[0]
    weights = F.avg_pool2d(F.pad(known_1HW, padding)[None], 2)[0]
    smaller = edge(colours / weights.clamp_min(1e-12), weights[0] == 0)
    wide = F.interpolate(smaller[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :height, :width]
    return torch.where(masked_HW, wide, image_CHW)


FILLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "edge": edge}
"""Fills by name: (image (C, H, W) float, masked (H, W) bool) -> image."""
