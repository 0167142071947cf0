"""Distances by classifiers that install as packages: LPIPS' form, every channel alike, by the network's own name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from mage_kit.base.errors import MissingExtraError
from mage_kit.perceptual.base import PERCEPTUAL, Perceptual, layer_distances


class Staged(Protocol):
    """A network that tells what it sees on the way."""

    def stages(self, images_B3HW: Tensor) -> list[Tensor]:
        """RGB in [0, 1] -> features of some places (B, K, h, w)."""

    def features(self, images_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] -> features before the classifier, mean over places (B, K)."""


class PackageNetwork(Perceptual):
    """Mean over places of squared differences of features at length 1; it is no LPIPS, whose weights are learned.

    Raises:
        MissingExtraError: If the package is not installed.
    """

    least = 64

    def __init__(self) -> None:
        super().__init__()
        self.staged, digest = self.load()
        self.sha256 = (digest,)
        self.freeze()

    @classmethod
    @abstractmethod
    def load(cls) -> tuple[Staged, str]:
        """Return the network with the installed package's weights, frozen, and the SHA-256 of their file."""

    @classmethod
    @abstractmethod
    def make(cls) -> Staged:
        """Return the network with random weights."""

    @classmethod
    def rehearse(cls, images_B3HW: Tensor) -> Tensor:
        """Send images through the network's stages."""
        with images_B3HW.device:
            return cls.make().stages(images_B3HW)[-1]

    def distances(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Return the mean over places of squared differences at length 1 (B,)."""
        return layer_distances(self.staged.stages(first_B3HW), self.staged.stages(second_B3HW))


def installed_networks() -> Iterator[tuple[str, PackageNetwork]]:
    """Yield kind and distance of each network whose package is installed."""
    for kind in PERCEPTUAL.kinds():
        cls = PERCEPTUAL.get(kind).cls
        if issubclass(cls, PackageNetwork):
            try:
                yield kind, cls()
            except MissingExtraError:
                continue
