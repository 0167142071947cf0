"""A Fréchet distance of reconstructions by a network that installs as a package, and that no loss of the training used.

It is called by the network's name and never FID. Beside it stands its floor: the distance of one half of the images
from the other, which is what chance alone makes of so few.

Legend: I images, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.evaluation.frechet import frechet_distance
from mage_kit.perceptual.lite0 import Lite0Distance, load_lite0
from mage_kit.perceptual.squeezenet import SqueezeNetDistance, load_squeezenet

_LEAST = 64  # pixels a side; smaller images are enlarged
_BATCH = 64


@dataclass(frozen=True)
class JudgingNetwork:
    """A network that tells sets of pictures apart.

    Args:
        name: Of the network.
        sha256: Of its weights.
        features: Images (I, 3, H, W) in [0, 1] to features (I, D).
    """

    name: str
    sha256: str
    features: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images_I3HW: Tensor) -> np.ndarray:
        """Return features (I, D) of uint8 images (I, 3, H, W)."""
        parts = []
        for part in images_I3HW.split(_BATCH):
            unit = part.float() / 255
            factor = _LEAST / min(unit.shape[-2:])
            if factor > 1:
                unit = F.interpolate(unit, scale_factor=factor, mode="bilinear", align_corners=False)
            parts.append(self.features(unit))
        return torch.cat(parts).cpu().numpy()

    def distances(self, images_I3HW: Tensor, rebuilt_I3HW: Tensor) -> tuple[float, float]:
        """Return the Fréchet distance of reconstructions from their images, and of every other image from the rest.

        Args:
            images_I3HW: uint8, four at least.
            rebuilt_I3HW: uint8, their reconstructions.
        """
        real = self(images_I3HW)
        return frechet_distance(real, self(rebuilt_I3HW)), frechet_distance(real[::2], real[1::2])


def judging_network(trained_on: str | None) -> JudgingNetwork | None:
    """Return a network whose package is installed, and that the training did not use; None where there is none.

    Args:
        trained_on: Kind of the training's perceptual distance; None for none.
    """
    for kind, name, load in (
        ("efficientnet_lite0", Lite0Distance.network, load_lite0),
        ("squeezenet", SqueezeNetDistance.network, load_squeezenet),
    ):
        if kind != trained_on:
            try:
                network, digest = load()
            except MageKitError:  # not installed
                continue
            return JudgingNetwork(name, digest, network.features)
    return None
