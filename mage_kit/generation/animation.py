"""The canvas filling up: a picture after each decoding step.

Legend: B images, C channels, H x W pixels, L tokens. `True = masked`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mage_kit.generation.generate import to_images
from mage_kit.generation.loop import Step
from mage_kit.images.pictures import grid_picture
from mage_kit.models.mage import Mage

_VEIL = 0.5  # grey of cells that are still masked


@torch.no_grad()
def canvas(model: Mage, ids_BL: Tensor, masked_BL: Tensor) -> Tensor:
    """Return images of tokens, what is still masked in plain grey.

    Called while decoding goes on (`Watch`), it computes in the same precision, so that the last canvas is the image.

    Args:
        model: The model that decodes.
        ids_BL: Tokens (B, L), (B, L, F) or (B, L, W).
        masked_BL: bool.

    Returns:
        float32 (B, C, H, W) in [0, 1], on the CPU.
    """
    grid = model.spec.grid
    images_BCHW = to_images(model, ids_BL.to(model.device)).cpu()
    return veiled(images_BCHW, masked_BL.cpu().unflatten(1, (grid.height, grid.width)))


def veiled(images_BCHW: Tensor, masked_Bhw: Tensor) -> Tensor:
    """Return images with the masked cells of a grid in plain grey."""
    cells_B1HW = F.interpolate(masked_Bhw[:, None].float(), size=images_BCHW.shape[-2:], mode="nearest")
    return torch.where(cells_B1HW > 0, _VEIL, images_BCHW)


class Animation:
    """Frames of the canvas filling up, of the first images; give its `watch` to what decodes.

    Args:
        model: The model that decodes.
        most: Images shown at most.
        columns: Images a row.
        scale: Pixels a pixel.
        first: Number of the first image.
    """

    def __init__(self, model: Mage, most: int = 1, columns: int = 1, scale: int = 1, first: int = 0) -> None:
        self._model, self._columns, self._scale = model, columns, scale
        self._end = first + most
        self._steps: dict[int, list[Tensor]] = {}

    def watch(self, step: Step) -> None:
        """Keep what a step shows of the first images."""
        count = self._end - step.first
        if count > 0:
            images = canvas(self._model, step.ids_BL[:count], step.masked_BL[:count])
            self._steps.setdefault(step.number, []).append(images)

    def frames(self) -> list[Image.Image]:
        """Return a picture of each step."""
        batches = (torch.cat(parts) for _, parts in sorted(self._steps.items()))
        return [grid_picture(images, min(self._columns, len(images)), scale=self._scale) for images in batches]
