"""Pictures of images: grids, labelled rows, PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from mage_kit.base.files import atomic

GAP = 2


def cut_to_bytes(images_BCHW: Tensor) -> NDArray[np.uint8]:
    """Return float images in [0, 1] as a picture file holds them: uint8, cut off and not rounded."""
    array: NDArray[np.uint8] = (images_BCHW.detach().cpu().float().clamp(0, 1) * 255).byte().numpy()
    return array


def bytes_picture(image_CHW: NDArray[np.uint8]) -> Image.Image:
    """Return one image of 1, 3 or 4 channels."""
    return Image.fromarray(np.ascontiguousarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)))


def grid_picture(images_BCHW: Tensor, columns: int, *, scale: int = 1) -> Image.Image:
    """Lay images out row by row, white lines between them.

    Args:
        images_BCHW: float images in [0, 1], 1, 3 or 4 channels.
        columns: Images a row.
        scale: Whole factor by which pixels are enlarged.
    """
    array = cut_to_bytes(images_BCHW)
    count, channels, height, width = array.shape
    rows = -(-count // columns)
    blanks = np.full((rows * columns - count, channels, height, width), 255, dtype=np.uint8)
    cells = np.concatenate([array, blanks]).repeat(scale, axis=2).repeat(scale, axis=3)
    tiles = np.pad(cells, ((0, 0), (0, 0), (0, GAP), (0, GAP)), constant_values=255)
    sheet = rearrange(tiles, "(r c) k h w -> (r h) (c w) k", r=rows)[:-GAP, :-GAP]
    return Image.fromarray(np.ascontiguousarray(sheet[:, :, 0] if channels == 1 else sheet))


def labelled_rows(rows: Sequence[tuple[str, Tensor]], *, scale: int = 1) -> Image.Image:
    """Stack rows of images, each with a line of text above it."""
    return labelled_sheets([(text, grid_picture(images, len(images), scale=scale)) for text, images in rows])


def labelled_sheets(sheets: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Stack pictures of any sizes, each with a line of text above it."""
    line = 16
    height = sum(sheet.height + line + GAP for _, sheet in sheets)
    canvas = Image.new("RGB", (max(sheet.width for _, sheet in sheets), height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for text, sheet in sheets:
        draw.text((2, top + 2), text, fill="black")
        canvas.paste(sheet.convert("RGB"), (0, top + line))
        top += sheet.height + line + GAP
    return canvas


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of any sizes in a row, white between them; grey ones stay grey if all are."""
    mode = pictures[0].mode if len({picture.mode for picture in pictures}) == 1 else "RGB"
    width = sum(picture.width + GAP for picture in pictures) - GAP
    canvas = Image.new(mode, (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture.convert(mode), (left, 0))
        left += picture.width + GAP
    return canvas


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")
