"""From a picture to what the model sees of it, and back.

Legend: N variants, L tokens, C channels, H x W pixels of the picture, h x w of the model. `True = masked`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mage_kit.base.draws import keys, uniforms
from mage_kit.editing.fills import FILLS
from mage_kit.editing.frame import Frame, feathered, unknown_tokens
from mage_kit.editing.inputs import to_picture
from mage_kit.editing.settings import EditSettings
from mage_kit.images.image_files import MAX_PIXELS
from mage_kit.models.mage import Mage


def open_window(
    frame: Frame, pixels_CHW: NDArray[np.uint8], masked_HW: Tensor, settings: EditSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the tokenizer sees (C, h, w), and at the picture's resolution the hole and what lies outside.

    The hole is filled before anything is resized, so that no pixel under the mask gets into one beside it.

    Raises:
        ValueError: If the window has more pixels than this program holds.
    """
    if frame.height * frame.width > MAX_PIXELS:
        rule = f"must be at most {MAX_PIXELS:,}; reduce the picture, or cover less of it"
        raise ValueError(f"image: a window of {frame.width} x {frame.height} pixels shows the hole, {rule}")
    image_CHW, hole_HW, outside_HW = frame.cut(torch.from_numpy(pixels_CHW), masked_HW)
    filled_CHW = FILLS[settings.fill](image_CHW.float() / 255, hole_HW | outside_HW)
    return frame.reduce(filled_CHW), hole_HW, outside_HW


def unknown_around(hole_HW: Tensor, outside_HW: Tensor, model: Mage, settings: EditSettings) -> tuple[int, Tensor]:
    """Return the rings around the hole, and the unknown tokens (L,).

    Raises:
        ValueError: If the rings asked for alone leave no token known: what is around would have no say.
    """
    size, grid = model.tokenizer.image_size, model.spec.grid
    dilate = settings.ring(grid)
    unknown_L = unknown_tokens(hole_HW, outside_HW, size, grid, dilate)
    if not dilate or not bool(unknown_L.all()):
        return dilate, unknown_L
    least_L = unknown_tokens(hole_HW, outside_HW, size, grid, 0)
    if settings.dilate is not None and not bool(least_L.all()):
        raise ValueError(
            f"dilate: {dilate}, leaves none of the {grid.size} tokens of the window known, must be smaller: what is "
            "around the hole would have no say"
        )
    return 0, least_L


def masked_at_random(outside_L: Tensor, ratio: float, settings: EditSettings) -> Tensor:
    """Mask ceil(ratio x tokens) of the tokens that show the picture, in each variant others; and all that show none."""
    visible = int((~outside_L).sum())
    count = min(visible, int(np.ceil(ratio * visible - 1e-9)))
    noise_NL = uniforms(keys(settings.seed, "reconstruct", torch.arange(settings.n)), len(outside_L))
    order_NL = noise_NL.masked_fill(outside_L, torch.inf).argsort(dim=1).argsort(dim=1)
    return (order_NL < count) | outside_L


def shown_anew(frame: Frame, masked_HW: Tensor, settings: EditSettings) -> Tensor | None:
    """Return how much of the new picture shows at each pixel of the window; None for all of it."""
    if not settings.paste:
        return None
    return feathered(masked_HW, settings.feather_of(*masked_HW.shape))[frame.inside(*masked_HW.shape)]


def put_back(frame: Frame, pixels_CHW: NDArray[np.uint8], new_Chw: Tensor, alpha_HW: Tensor | None) -> Image.Image:
    """Return the canvas with the window's new picture in it; pixels of which it shows nothing stay bit for bit."""
    rows, columns = frame.inside(*pixels_CHW.shape[1:])
    shift_rows = slice(rows.start - frame.top, rows.stop - frame.top)
    new_CHW = frame.restore(new_Chw)[:, shift_rows, columns.start - frame.left : columns.stop - frame.left]
    canvas_CHW = pixels_CHW.copy()
    if alpha_HW is None:
        canvas_CHW[:, rows, columns] = to_bytes(new_CHW)
        return to_picture(canvas_CHW)
    old_CHW = torch.from_numpy(pixels_CHW[:, rows, columns])
    mixed_CHW = alpha_HW * new_CHW + (1 - alpha_HW) * (old_CHW.float() / 255)
    canvas_CHW[:, rows, columns] = np.where(alpha_HW.numpy() == 0, old_CHW.numpy(), to_bytes(mixed_CHW))
    return to_picture(canvas_CHW)


def to_bytes(image_CHW: Tensor) -> NDArray[np.uint8]:
    """Return float images in [0, 1] as uint8, rounded: what was 8 bits stays what it was."""
    bytes_CHW: NDArray[np.uint8] = (image_CHW.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return bytes_CHW
