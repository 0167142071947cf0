"""Mixup and CutMix on pixels and labels, before the tokenizer; paper: supplement, Table 12.

Images are mixed in pairs of neighbours in the batch, each with the other: whatever process or micro-batch they are in,
both are there. Legend: B images (an even number), C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """How the images of a step are mixed.

    Args:
        share: Of an image's own pixels and label, in [0, 1].
        box: Top, bottom, left, right of the part that is the neighbour's; None where all pixels are averaged.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(size: tuple[int, int], mixup: float, cutmix: float, switch: float, random: np.random.Generator) -> Mix:
    """Draw how a step's images are mixed: by one of the two, the same for all.

    Args:
        size: Height and width of the images.
        mixup: Both parameters of Mixup's beta distribution; 0: CutMix alone.
        cutmix: The same for CutMix; 0: Mixup alone.
        switch: Probability of CutMix where both are above 0.
        random: Source of the draws.
    """
    cuts = cutmix > 0 and (mixup == 0 or random.random() < switch)
    if not cuts:
        return Mix(float(random.beta(mixup, mixup)) if mixup > 0 else 1.0)
    height, width = size
    side = math.sqrt(1 - float(random.beta(cutmix, cutmix)))
    tall, wide = int(height * side), int(width * side)
    row, column = int(random.integers(height)), int(random.integers(width))
    top, bottom = max(0, row - tall // 2), min(height, row + tall // 2)
    left, right = max(0, column - wide // 2), min(width, column + wide // 2)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def neighbours(values: Tensor) -> Tensor:
    """Return a batch with the two of each pair in each other's place."""
    others: Tensor = values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return others


def mix_images(images_BCHW: Tensor, mix: Mix) -> Tensor:
    """Return mixed images; those given are left alone."""
    others_BCHW = neighbours(images_BCHW)
    if mix.box is None:
        return torch.lerp(others_BCHW, images_BCHW, mix.share)
    top, bottom, left, right = mix.box
    mixed_BCHW = images_BCHW.clone()
    mixed_BCHW[..., top:bottom, left:right] = others_BCHW[..., top:bottom, left:right]
    return mixed_BCHW


def targets(labels_B: Tensor, classes: int, smoothing: float, mix: Mix | None = None) -> Tensor:
    """Return what a classifier is to say (B, K), float32, adding up to 1 an image.

    Args:
        labels_B: int64.
        classes: How many, K.
        smoothing: Share that is spread over all classes evenly.
        mix: Of the images; None where they are not mixed.
    """
    wanted_BK = torch.full((len(labels_B), classes), smoothing / classes, device=labels_B.device)
    wanted_BK.scatter_(1, labels_B[:, None], 1 - smoothing + smoothing / classes)
    return wanted_BK if mix is None else torch.lerp(neighbours(wanted_BK), wanted_BK, mix.share)
