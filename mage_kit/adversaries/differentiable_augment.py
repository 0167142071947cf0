"""DiffAugment (Zhao et al., 2020): pictures and reconstructions are changed alike before they are judged.

All draws follow the image's own key, so that neither the number of processes nor of passes changes them.

Legend: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Change = Literal["colour", "translation", "cutout"]

DRAWS = 7  # uniforms an image
_SHIFT = 1 / 8  # of a side
_HOLE = 1 / 2  # of a side


def augment(images_BCHW: Tensor, uniforms_BU: Tensor, changes: tuple[Change, ...]) -> Tensor:
    """Return changed pictures; gradients reach the images.

    Args:
        images_BCHW: float images in [0, 1].
        uniforms_BU: `DRAWS` uniforms an image; the same for a picture and its reconstruction.
        changes: Which, in the order of the list above.
    """
    columns = uniforms_BU.to(images_BCHW.dtype).unbind(dim=1)
    if "colour" in changes:
        images_BCHW = _recoloured(images_BCHW, *columns[:3])
    if "translation" in changes:
        images_BCHW = _moved(images_BCHW, *columns[3:5])
    if "cutout" in changes:
        images_BCHW = _cut(images_BCHW, *columns[5:7])
    return images_BCHW


def _recoloured(images_BCHW: Tensor, light_B: Tensor, saturation_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Brightness by up to a quarter (half of [-1, 1]'s unit), saturation by up to twice, contrast by half to 1.5."""
    light, saturation, contrast = (u[:, None, None, None] for u in (light_B, saturation_B, contrast_B))
    images = images_BCHW + (light - 0.5) / 2
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _places(offset_B: Tensor, side: int) -> Tensor:
    return torch.arange(side, device=offset_B.device)[None, :] + offset_B.long()[:, None]


def _moved(images_BCHW: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """Shifted by up to an eighth of a side; middle grey comes in."""
    height, width = images_BCHW.shape[-2:]
    rows_BH = _places(_whole(down_B, height), height)
    columns_BW = _places(_whole(right_B, width), width)
    inside_BHW = _inside(rows_BH, height)[:, :, None] & _inside(columns_BW, width)[:, None, :]
    rows, columns = rows_BH.clamp(0, height - 1), columns_BW.clamp(0, width - 1)
    number_B = torch.arange(len(images_BCHW), device=images_BCHW.device)
    moved_BHWC = images_BCHW.permute(0, 2, 3, 1)[number_B[:, None, None], rows[:, :, None], columns[:, None, :]]
    return torch.where(inside_BHW[:, None], moved_BHWC.permute(0, 3, 1, 2), 0.5)


def _whole(uniform_B: Tensor, side: int) -> Tensor:
    """Whole numbers from -side / 8 to side / 8."""
    most = int(side * _SHIFT + 0.5)
    return (uniform_B * (2 * most + 1)).floor().clamp(max=2 * most) - most


def _inside(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)


def _cut(images_BCHW: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """A square of half a side, anywhere, is middle grey."""
    height, width = images_BCHW.shape[-2:]
    masks = []
    for uniform_B, side in ((down_B, height), (right_B, width)):
        hole = int(side * _HOLE + 0.5)
        start_B = (uniform_B * (side + (1 - hole % 2))).floor() - hole // 2
        places = torch.arange(side, device=images_BCHW.device)[None, :] - start_B[:, None]
        masks.append((places >= 0) & (places < hole))
    hole_BHW = masks[0][:, :, None] & masks[1][:, None, :]
    return images_BCHW.masked_fill(hole_BHW[:, None], 0.5)
