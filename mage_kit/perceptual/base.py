"""What a perceptual distance is: a frozen network's opinion of how far two pictures are apart; a slot of the tasks.

Legend: B images, H x W pixels, K channels of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.registry import Registry
from mage_kit.base.signature import ComponentConfig, NoWires

_TINY = 1e-10


class Perceptual(nn.Module, ABC):
    """A distance of pictures by a network that is not trained. It never leaves evaluation mode, and holds no dropout.

    Attributes:
        network: What its distances are called by in logs and results.
        sha256: Of the files that its weights came from, in the order of its keywords.
        least: Pixels a side below which pictures are enlarged to it.
    """

    network: ClassVar[str]
    sha256: tuple[str, ...] = ()
    least: ClassVar[int] = 32

    @abstractmethod
    def distances(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Return a distance an image (B,), at least 0, 0 between a picture and itself.

        Args:
            first_B3HW: float32 RGB in [0, 1], not clamped; with gradients.
            second_B3HW: What it should look like.
        """

    def forward(self, first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
        """Return distances (B,), computed in float32 whatever is on around the call.

        Args:
            first_BCHW: Pictures of three channels; gradients reach them.
            second_BCHW: As many, of the same size.

        Raises:
            MageKitError: If they have another number of channels.
        """
        if first_BCHW.shape[1] != 3:
            raise MageKitError(channel_problem(self.network, first_BCHW.shape[1]))
        with torch.autocast(first_BCHW.device.type, enabled=False):
            return self.distances(self.enlarged(first_BCHW.float()), self.enlarged(second_BCHW.float()))

    @classmethod
    def enlarged(cls, images_BCHW: Tensor) -> Tensor:
        """Return pictures as `distances` gets them: small ones enlarged, so that their shorter side is `least`."""
        height, width = images_BCHW.shape[-2:]
        factor = cls.least / min(height, width)
        if factor <= 1:
            return images_BCHW
        size = (round(height * factor), round(width * factor))
        return F.interpolate(images_BCHW, size=size, mode="bilinear", align_corners=False)

    @classmethod
    def rehearse(cls, images_B3HW: Tensor) -> Tensor:
        """Send images of the meta device, large enough, through a network of this form without weights, for a plan."""
        raise MageKitError(f"perceptual: {cls.__name__} cannot be planned")

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever holds it."""
        return super().train(False)

    def freeze(self) -> None:
        """Let no gradient reach the weights; called at the end of construction."""
        self.requires_grad_(False).train()


PERCEPTUAL: Registry[Perceptual, NoWires] = Registry("perceptual", Perceptual, NoWires)

PerceptualSlot = Annotated[Any, PERCEPTUAL.slot()]
"""A keyword that holds a perceptual distance: its recipe form, or in Python the distance itself."""


def perceptual_config(value: ComponentConfig | Perceptual | None) -> ComponentConfig | None:
    """Return the recipe form of a perceptual distance, None of none.

    Raises:
        MageKitError: If the value is neither a distance nor its recipe form, or its class is not registered.
    """
    if isinstance(value, Perceptual):
        return PERCEPTUAL.parse(PERCEPTUAL.describe(value))
    if value is not None and not isinstance(value, ComponentConfig):
        raise MageKitError(f"perceptual: {value!r}, must be a Perceptual or its recipe form")
    return value


def build_perceptual(config: ComponentConfig) -> Perceptual:
    """Return the distance that a recipe form describes; its files are read."""
    return PERCEPTUAL.build(config, NoWires())


def channel_problem(network: str, channels: int) -> str:
    """Say why pictures of so many channels cannot be compared."""
    return f"perceptual: '{network}' reads colour, the images have {channels} channel(s), must have 3"


def layer_distances(
    first: Sequence[Tensor], second: Sequence[Tensor], weights: Sequence[Tensor] | None = None
) -> Tensor:
    """Return the sum over layers of squared differences of features, each position's brought to length 1 (B,).

    This is LPIPS (Zhang et al., 2018, equation 1); without weights every channel counts alike.

    Args:
        first: Features of layers (B, K, h, w).
        second: The other pictures'.
        weights: Of each layer's channels (K,); None for the mean over layers of plain sums.
    """
    parts = []
    for number, (one_BKHW, other_BKHW) in enumerate(zip(first, second, strict=True)):
        squares_BKHW = (_unit(one_BKHW) - _unit(other_BKHW)).square()
        if weights is not None:
            squares_BKHW = squares_BKHW * weights[number][:, None, None]
        parts.append(squares_BKHW.sum(dim=1).mean(dim=(1, 2)))
    total_B = torch.stack(parts).sum(dim=0)
    return total_B if weights is not None else total_B / len(parts)


def _unit(features_BKHW: Tensor) -> Tensor:
    # The root's gradient at 0 is infinite; a position where all is 0 is as published: 0 / (0 + tiny).
    length_B1HW = features_BKHW.square().sum(dim=1, keepdim=True).clamp_min(_TINY**2).sqrt()
    return features_BKHW / (length_B1HW + _TINY)
