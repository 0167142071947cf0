"""Pictures in part painted anew: paper section 3.2 and figure 2; supplement, "Image Inpainting and Outpainting".

What lies under a mask is replaced before the picture is tokenised, so that no token can know of it. Tokens that hold a
masked pixel, and a ring of cells around, are decoded; all others stay bit for bit. Legend: N variants, L tokens,
C channels, H x W pixels of the picture. `True = masked`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mage_kit.base.checks import whole_number
from mage_kit.base.precision import full_convolutions
from mage_kit.editing.frame import Frame, frame_around
from mage_kit.editing.inputs import ImageLike, to_mask, to_picture, to_pixels
from mage_kit.editing.pasting import masked_at_random, open_window, put_back, shown_anew, to_bytes, unknown_around
from mage_kit.editing.settings import EditOptions, EditSettings, split_options
from mage_kit.generation import (
    Decoded,
    Trace,
    check_decoding,
    chosen_labels,
    decode_tokens,
    prepare_to_generate,
    to_images,
)
from mage_kit.images.image_files import MAX_PIXELS
from mage_kit.layers.condition import UNKNOWN, Condition
from mage_kit.models.decoding import Decoding
from mage_kit.models.mage import Mage


@dataclass(frozen=True)
class Edited:
    """What editing made.

    Args:
        pictures: N pictures of the canvas's size.
        canvas: As it was taken: grey where masked; in `reconstruct` where the first variant's cells are.
        window: What was tokenised, its hole filled, at the model's size.
        ids_NL: Tokens of each variant; known ones are those of `window`.
        masked_NL: Which were unknown.
        log_p_NL: Confidence of each in the step that kept it; 0 for known ones.
        frame: The window on the canvas.
        settings: How they were made, ready for JSON.
        trace: Every step, where asked for.
    """

    pictures: list[Image.Image]
    canvas: Image.Image
    window: Image.Image
    ids_NL: Tensor
    masked_NL: Tensor
    log_p_NL: Tensor
    frame: Frame
    settings: dict[str, Any]
    trace: Trace | None = None


def inpaint(model: Mage, image: ImageLike, mask: ImageLike, **options: Unpack[EditOptions]) -> Edited:
    """Paint anew what a mask covers.

    Args:
        model: A model that generates.
        image: Of any size; where it is larger than the model's images, a window around the hole is put back.
        mask: Of the image's size, white where painted anew.
        options: See `EditOptions`.

    Raises:
        ValueError: If image, mask or an option breaks its rule, or the model's output is not finite.
        PartsError: If the tokenizer has no codes.
    """
    pixels_CHW = to_pixels(image, model.tokenizer.channels)
    return _paint(model, pixels_CHW, to_mask(mask, pixels_CHW.shape[1:]), "inpaint", options)


def outpaint(
    model: Mage,
    image: ImageLike,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    **options: Unpack[EditOptions],
) -> Edited:
    """Continue a picture beyond its edges.

    Args:
        model: A model that generates.
        image: Of any size.
        left: Pixels to add there; so the others.
        right: See `left`.
        top: See `left`.
        bottom: See `left`.
        options: See `EditOptions`.

    Raises:
        ValueError: If nothing is to be added, or see `inpaint`.
    """
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    for name, size in sides.items():
        whole_number(name, size, 0)
    if not any(sides.values()):
        raise ValueError("left, right, top, bottom: all 0, one must be at least 1: pixels to add there")
    pixels_CHW = to_pixels(image, model.tokenizer.channels)
    canvas_CHW, masked_HW = _canvas(pixels_CHW, (top, bottom, left, right))
    edit = _paint(model, canvas_CHW, masked_HW, "outpaint", options)
    return dataclasses.replace(edit, settings={**edit.settings, **sides})


def uncrop(
    model: Mage,
    image: ImageLike,
    width: int,
    height: int,
    *,
    across: float = 0.5,
    down: float = 0.5,
    **options: Unpack[EditOptions],
) -> Edited:
    """Set a small picture into a large canvas and paint the rest.

    Args:
        model: A model that generates.
        image: Smaller than the canvas.
        width: Of the canvas.
        height: Of the canvas.
        across: Where the picture stands: 0 at the left, 1 at the right edge.
        down: 0 at the top, 1 at the bottom.
        options: See `EditOptions`.

    Raises:
        ValueError: If the picture does not fit into the canvas or fills it, or see `inpaint`.
    """
    for name, share in (("across", across), ("down", down)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: {share}, must lie in [0, 1]")
    pixels_CHW = to_pixels(image, model.tokenizer.channels)
    own = pixels_CHW.shape[1:]
    width, height = whole_number("width", width, 1), whole_number("height", height, 1)
    if own[0] > height or own[1] > width or own == (height, width):
        raise ValueError(f"canvas: {width} x {height}, must be larger than the image ({own[1]} x {own[0]})")
    top, left = round((height - own[0]) * down), round((width - own[1]) * across)
    sides = (top, height - own[0] - top, left, width - own[1] - left)
    canvas_CHW, masked_HW = _canvas(pixels_CHW, sides)
    edit = _paint(model, canvas_CHW, masked_HW, "uncrop", options)
    return dataclasses.replace(edit, settings={**edit.settings, "width": width, "height": height, "at": [left, top]})


def reconstruct(
    model: Mage,
    image: ImageLike,
    ratio: float = 0.75,
    **options: Unpack[EditOptions],
) -> Edited:
    """Mask a share of a picture's tokens at random and decode them again: paper, figure 2.

    Each variant has a mask of its own, drawn from (seed, its number). The tokenizer sees the whole picture.

    Args:
        model: A model that generates.
        image: Of any size; shown as a whole.
        ratio: Share of the picture's tokens that are masked; rounded up.
        options: See `EditOptions`; fill, dilate, paste, feather and whole have no say here.

    Raises:
        ValueError: If the ratio lies outside (0, 1], or see `inpaint`.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: {ratio}, must lie in (0, 1]")
    pixels_CHW = to_pixels(image, model.tokenizer.channels)
    nothing_HW = np.zeros(pixels_CHW.shape[1:], dtype=np.bool_)
    options = {**options, "whole": True, "dilate": 0, "paste": False}
    return _paint(model, pixels_CHW, nothing_HW, "reconstruct", options, ratio)


def _canvas(
    pixels_CHW: NDArray[np.uint8], sides: tuple[int, int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a picture with room at (top, bottom, left, right), and the mask of that room."""
    rows, columns = sides[:2], sides[2:]
    height, width = pixels_CHW.shape[1] + sum(rows), pixels_CHW.shape[2] + sum(columns)
    if height * width > MAX_PIXELS:
        raise ValueError(f"canvas: {width} x {height} pixels, must be at most {MAX_PIXELS:,}")
    canvas_CHW = np.pad(pixels_CHW, ((0, 0), rows, columns))
    return canvas_CHW, np.pad(np.zeros(pixels_CHW.shape[1:], dtype=np.bool_), (rows, columns), constant_values=True)


def _paint(
    model: Mage,
    pixels_CHW: NDArray[np.uint8],
    masked_HW: NDArray[np.bool_],
    what: str,
    options: EditOptions,
    ratio: float | None = None,
) -> Edited:
    """Paint the masked part of a canvas anew; with a ratio, tokens masked at random instead."""
    model.check_generates(what)
    settings, decoding = split_options(options, model.decoding)
    check_decoding(model, decoding)
    size, mask_HW = model.tokenizer.image_size, torch.from_numpy(masked_HW)
    shown_HW = mask_HW if masked_HW.any() else torch.ones_like(mask_HW)
    frame = frame_around(shown_HW, size, model.spec.grid, settings.ring(model.spec.grid), settings.whole)
    window_Chw, hole_HW, outside_HW = open_window(frame, pixels_CHW, mask_HW, settings)
    with torch.no_grad(), full_convolutions(model.device):
        known_1L = model.tokenizer.encode(window_Chw[None].to(model.device, next(model.parameters()).dtype))
    dilate, unknown_L = unknown_around(hole_HW, outside_HW, model, settings)
    unknown_NL = unknown_L[None].expand(settings.n, -1)
    if ratio is not None:
        unknown_NL = masked_at_random(unknown_L, ratio, settings)
    labels = chosen_labels(model, UNKNOWN if settings.labels is None and model.classes else settings.labels)
    with prepare_to_generate(model, min(settings.n, settings.batch), settings.precision) as decision:
        parts = _decode(model, decoding, settings, known_1L, unknown_NL, labels)
        images = [image for part in parts for image in to_images(model, part.ids_BL).cpu()]
    trace = Trace.join(part.trace for part in parts)
    alpha_HW = shown_anew(frame, mask_HW, settings)
    hidden_HW = masked_HW if ratio is None else frame.cells(unknown_NL[0], model.spec.grid, masked_HW.shape)
    canvas = to_picture(np.where(hidden_HW, np.uint8(128), pixels_CHW))
    window = {"window": [frame.left, frame.top, frame.width, frame.height], "scale": round(frame.scale, 4)}
    request = {"what": what, **({} if ratio is None else {"ratio": ratio}), **settings.describe()}
    return Edited(
        [put_back(frame, pixels_CHW, image, alpha_HW) for image in images],
        canvas,
        to_picture(to_bytes(window_Chw)),
        torch.cat([part.ids_BL for part in parts]).cpu(),
        unknown_NL,
        torch.cat([part.log_p_BL for part in parts]).cpu(),
        frame,
        {
            **request,
            **window,
            "dilate": dilate,
            "known_tokens": int((~unknown_NL[0]).sum()),
            "feather": settings.feather_of(*masked_HW.shape),
            "labels": labels,
            "precision": decision.value,
            "decoding": decoding.describe(),
        },
        trace and trace.cpu(),
    )


def _decode(
    model: Mage,
    decoding: Decoding,
    settings: EditSettings,
    known_1L: Tensor,
    unknown_NL: Tensor,
    labels: list[int] | None,
) -> list[Decoded]:
    """Decode the variants, some at once."""
    parts = []
    for start in range(0, settings.n, settings.batch):
        count = min(settings.batch, settings.n - start)
        classes = [labels[index % len(labels)] for index in range(start, start + count)] if labels else None
        parts.append(
            decode_tokens(
                model,
                known_1L.expand(count, *known_1L.shape[1:]),
                unknown_NL[start : start + count].to(model.device),
                decoding=decoding,
                seed=settings.seed,
                first_index=start,
                condition=None if classes is None else Condition(torch.tensor(classes, device=model.device)),
                trace=settings.trace,
                watch=settings.watch_all,
            )
        )
    return parts
