"""The canvas filling up: a picture after each decoding step.

Legend: T steps, B images, C channels, H x W pixels, L tokens. `True = masked`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.generation.decoding import Trace
from mage_kit.generation.generate import to_images
from mage_kit.generation.prepared import Asked, prepared
from mage_kit.model import Mage

_VEIL = 0.5  # grey of cells that are still masked


@torch.no_grad()
def step_images(model: Mage, trace: Trace, precision: Asked | None = "auto") -> Tensor:
    """Return images after each step, what is still masked in plain grey.

    Args:
        model: The model that decoded.
        trace: Its steps.
        precision: What it decoded in, so that the last picture is the one that was made.

    Returns:
        float32 (T, B, C, H, W) in [0, 1], on the CPU.
    """
    grid, size = model.spec.grid, model.tokenizer.image_size
    frames = []
    with prepared(model, trace.ids_TBL.shape[1], precision):
        for ids_BL, masked_BL in zip(trace.ids_TBL, trace.masked_TBL, strict=True):
            images_BCHW = to_images(model, ids_BL.to(model.device)).cpu()
            cells = masked_BL.cpu().float().unflatten(1, (1, grid.height, grid.width))
            frames.append(torch.where(F.interpolate(cells, size=size, mode="nearest") > 0, _VEIL, images_BCHW))
    return torch.stack(frames)
