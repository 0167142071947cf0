"""A Fréchet distance of reconstructions by a network that installs as a package, and that no loss of the training used.

It is called by the network's name and never FID. Beside it stands its floor: the distance of one half of the images
from the other, which is what chance alone makes of so few.

Legend: I images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.evaluation.frechet import frechet_distance
from mage_kit.perceptual import installed_networks

_LEAST = 64  # pixels a side; smaller images are enlarged
_BATCH = 64

FEWEST = 50  # images, of which a distance says something


@dataclass(frozen=True)
class JudgingNetwork:
    """A network that tells sets of pictures apart.

    Args:
        kind: Of the perceptual distance that is computed by it.
        name: Of the network.
        sha256: Of its weights.
        features: Images (I, 3, H, W) in [0, 1] to features (I, D).
    """

    kind: str
    name: str
    sha256: str
    features: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images_I3HW: Tensor) -> np.ndarray:
        """Return features (I, D) of uint8 images (I, 3, H, W)."""
        parts = []
        for part in images_I3HW.cpu().split(_BATCH):
            unit = part.float() / 255
            factor = _LEAST / min(unit.shape[-2:])
            if factor > 1:
                unit = F.interpolate(unit, scale_factor=factor, mode="bilinear", align_corners=False)
            parts.append(self.features(unit))
        return torch.cat(parts).numpy()


class Judgement:
    """Features of images and their reconstructions, part by part, and the distances that follow.

    Args:
        network: Which judges.
    """

    def __init__(self, network: JudgingNetwork) -> None:
        self.network = network
        self._real: list[np.ndarray] = []
        self._rebuilt: list[np.ndarray] = []

    def add(self, images_I3HW: Tensor, rebuilt_I3HW: Tensor) -> None:
        """Take in images and their reconstructions, uint8."""
        self._real.append(self.network(images_I3HW))
        self._rebuilt.append(self.network(rebuilt_I3HW))

    def as_dict(self) -> dict[str, Any] | None:
        """Return distance and floor with the network's name, ready for JSON; None of fewer than `FEWEST` images.

        The value is the Fréchet distance of reconstructions from their images, the floor that of every other image from
        the rest.
        """
        if sum(map(len, self._real)) < FEWEST:
            return None
        real, rebuilt = np.concatenate(self._real), np.concatenate(self._rebuilt)
        value, floor = frechet_distance(real, rebuilt), frechet_distance(real[::2], real[1::2])
        return {"network": self.network.name, "sha256": self.network.sha256, "value": value, "floor": floor}


def judging_networks() -> Iterator[JudgingNetwork]:
    """Yield the networks whose package is installed."""
    for kind, distance in installed_networks():
        yield JudgingNetwork(kind, distance.network, distance.sha256[0], distance.staged.features)


def judging_network(trained_on: str | None) -> JudgingNetwork | None:
    """Return a network whose package is installed, and that the training did not use; None where there is none.

    Args:
        trained_on: Kind of the training's perceptual distance; None for none.
    """
    return next((network for network in judging_networks() if network.kind != trained_on), None)
