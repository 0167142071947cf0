"""The part of a picture that the model looks at: a window of its shape, at its resolution where the hole allows it.

Legend: C channels, H x W pixels of the picture, h x w of the model, L tokens. `True = masked`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mage_kit.base.grid import TokenGrid

_CONTEXT = 1.5  # sides of the window, in those of the hole, where the picture has them


@dataclass(frozen=True)
class Frame:
    """A window on a picture. Where it reaches over the picture's edge it is masked.

    Args:
        top: First row, negative above the picture.
        left: First column, negative left of it.
        height: Rows of the picture.
        width: Columns of the picture.
        size: Height and width of the model's images.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of the picture to one of the model's; above 1 what is painted is less sharp than the picture."""
        return self.height / self.size[0]

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of a picture of that size that the window shows."""
        rows = slice(max(0, self.top), min(height, self.top + self.height))
        return rows, slice(max(0, self.left), min(width, self.left + self.width))

    def cut(self, image_CHW: Tensor, masked_HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, mask, and what lies outside the picture, in the window at the picture's resolution."""
        rows, columns = self.inside(*masked_HW.shape)
        top, left = rows.start - self.top, columns.start - self.left
        bottom = self.height - top - (rows.stop - rows.start)
        right = self.width - left - (columns.stop - columns.start)
        padding = (left, right, top, bottom)
        hole_HW = F.pad(masked_HW[rows, columns], padding)
        outside_HW = F.pad(torch.zeros_like(masked_HW[rows, columns]), padding, value=True)
        return F.pad(image_CHW[:, rows, columns], padding), hole_HW, outside_HW

    def cells(self, unknown_L: Tensor, grid: TokenGrid, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return the pixels of a picture of that shape that lie in unknown cells, bool (H, W)."""
        cells_1hw = unknown_L.view(1, 1, grid.height, grid.width).float()
        window_HW = F.interpolate(cells_1hw, size=(self.height, self.width), mode="nearest")[0, 0] > 0
        rows, columns = self.inside(shape[0], shape[1])
        unknown_HW = np.zeros(shape, dtype=np.bool_)
        unknown_HW[rows, columns] = window_HW[
            rows.start - self.top : rows.stop - self.top, columns.start - self.left : columns.stop - self.left
        ].numpy()
        return unknown_HW

    def reduce(self, image_CHW: Tensor) -> Tensor:
        """Return the window's image (C, h, w) at the model's resolution."""
        return _resize(image_CHW, self.size)

    def restore(self, image_Chw: Tensor) -> Tensor:
        """Return a model's image at the window's resolution."""
        return _resize(image_Chw, (self.height, self.width))


def frame_around(masked_HW: Tensor, size: tuple[int, int], grid: TokenGrid, ring: int, whole: bool = False) -> Frame:
    """Choose the window: the smallest of the model's shape, at least as large as its images, that shows the hole with
    half its extent around it, and on coarse grids so much more that some tokens beside it stay known; never larger
    than it takes to show the whole picture.

    Args:
        masked_HW: The hole.
        size: Height and width of the model's images.
        grid: Of the tokens.
        ring: Cells around the hole that are decoded too.
        whole: Show the whole picture.
    """
    extents = (masked_HW.shape[0], masked_HW.shape[1])
    spans = tuple(_span(masked_HW.any(dim=1 - axis)) for axis in (0, 1))
    cells = (grid.height, grid.width)
    needs = [_need(*span, extent, count, ring) for span, extent, count in zip(spans, extents, cells, strict=True)]
    most = max(extent / side for extent, side in zip(extents, size, strict=True))
    scale = most if whole else min(most, max(1.0, *(need / side for need, side in zip(needs, size, strict=True))))
    sides = [max(1, round(scale * side)) for side in size]
    starts = [_start(*span, side, extent) for span, side, extent in zip(spans, sides, extents, strict=True)]
    return Frame(starts[0], starts[1], sides[0], sides[1], size)


def unknown_tokens(hole_HW: Tensor, outside_HW: Tensor, size: tuple[int, int], grid: TokenGrid, dilate: int) -> Tensor:
    """Return which tokens are unknown: cells that hold a masked pixel, a ring of `dilate` cells around these, and cells
    that show nothing of the picture.

    Tokens beside the hole are coloured by what fills it; the ring lets them be chosen anew.

    Args:
        hole_HW: bool, masked pixels of the picture, at the window's resolution.
        outside_HW: bool, what lies outside the picture.
        size: Height and width of the model's images.
        grid: Of the tokens.
        dilate: Cells in all eight directions.

    Returns:
        bool (L,).
    """
    shape = (grid.height, grid.width)
    pixels_1hw = F.adaptive_max_pool2d(hole_HW[None].float(), size)  # no masked pixel gets lost
    cells = F.adaptive_max_pool2d(pixels_1hw, shape)
    if dilate:
        cells = F.max_pool2d(cells, 2 * dilate + 1, stride=1, padding=dilate)
    visible = F.adaptive_max_pool2d(F.adaptive_max_pool2d((~outside_HW)[None].float(), size), shape)
    return ((cells > 0) | (visible == 0))[0].flatten()


def feathered(masked_HW: Tensor, pixels: int) -> Tensor:
    """Return 1 in the hole, falling to 0 over some pixels outside; float (H, W)."""
    alpha_1HW = masked_HW[None].float()
    grown_1HW = alpha_1HW
    for distance in range(1, pixels + 1):
        grown_1HW = F.max_pool2d(grown_1HW, 3, stride=1, padding=1)
        alpha_1HW = torch.maximum(alpha_1HW, grown_1HW * (1 - distance / (pixels + 1)))
    return alpha_1HW[0]


def _span(marks: Tensor) -> tuple[int, int]:
    places = marks.nonzero()[:, 0]
    return int(places[0]), int(places[-1]) + 1


def _need(first: int, last: int, extent: int, cells: int, ring: int) -> float:
    """Length of the window along an axis; where the hole takes the whole axis there is nothing around it.

    A hole as wide as k cells touches k + 1 of them, the ring takes more at both sides, and one is to stay at each.
    """
    room = max(1, cells - 3 - 2 * ring)
    return min(extent, (last - first) * max(_CONTEXT, cells / room))


def _start(first: int, last: int, side: int, extent: int) -> int:
    """Centre the window on the hole, but within the picture where it fits; else centre it on the picture."""
    if side >= extent:
        return -((side - extent) // 2)
    return min(max(0, (first + last - side) // 2), extent - side)


def _resize(image_CHW: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image_CHW.shape[1:]) == size:
        return image_CHW
    new_CHW = F.interpolate(image_CHW[None], size=size, mode="bicubic", antialias=True, align_corners=False)[0]
    return new_CHW.clamp(0, 1)
