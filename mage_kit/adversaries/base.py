"""What an adversary is: a network that tells a tokenizer's reconstructions from pictures; a slot of the tasks.

Legend: B images, C channels, H x W pixels, h x w places of its judgement.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, Self

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mage_kit.base.grid import TokenSpec
from mage_kit.base.registry import Registry
from mage_kit.base.signature import ComponentConfig


class Pictured(Protocol):
    """What says of which pictures and tokens it is: a tokenizer."""

    channels: int
    image_size: tuple[int, int]
    spec: TokenSpec


@dataclass(frozen=True)
class AdversaryWires:
    """What an adversary is wired to: the pictures it looks at.

    Args:
        channels: 1 grey, 3 RGB, 4 RGBA.
        image_size: Height and width.
        grid: Height and width of their tokens.
    """

    channels: int
    image_size: tuple[int, int]
    grid: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Pictured) -> Self:
        """Return the wires of an adversary of a tokenizer."""
        grid = tokenizer.spec.grid
        return cls(tokenizer.channels, tokenizer.image_size, (grid.height, grid.width))


class Adversary(nn.Module, ABC):
    """Judges pictures: above 0 where they look real."""

    @abstractmethod
    def judge(self, images_BCHW: Tensor) -> Tensor:
        """Return judgements (B, 1, h, w), or (B, 1), of one for each patch or picture.

        Args:
            images_BCHW: float in [-1, 1], or beyond where a reconstruction is.
        """

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return judgements of pictures in [0, 1]."""
        return self.judge(2 * images_BCHW - 1)


Width = Annotated[int, Field(ge=1, le=16_384)]  # channels of a layer
Halvings = Annotated[int, Field(ge=1, le=12)]

ADVERSARIES: Registry[Adversary, AdversaryWires] = Registry("adversaries", Adversary, AdversaryWires)

AdversarySlot = Annotated[Any, ADVERSARIES.slot()]
"""A keyword that holds an adversary: its recipe form."""


def build_adversary(config: ComponentConfig, wires: AdversaryWires) -> Adversary:
    """Return the adversary that a recipe form describes.

    Raises:
        ValueError: If the pictures are too small for it.
    """
    return ADVERSARIES.build(config, wires)


def blur_halved(x: Tensor) -> Tensor:
    """Return x (B, K, H, W) low-passed by the binomial [1, 3, 3, 1] / 8 each way, then every other value (Zhang, 2019).

    [1, 3, 3, 1] is [1, 1] three times over: three means of 2 x 2, the last with a stride.
    """
    x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 2, stride=1)
    return F.avg_pool2d(F.avg_pool2d(x, 2, stride=1), 2, stride=2)


def check_side(kind: str, image_size: tuple[int, int], least: int) -> None:
    """Refuse pictures that an adversary cannot look at.

    Raises:
        ValueError: If a side is below `least`.
    """
    if min(image_size) < least:
        size = f"{image_size[0]}x{image_size[1]}"
        raise ValueError(f"adversary '{kind}': looks at {least} pixels a side at least, the images are {size}")
