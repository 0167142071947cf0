"""LPIPS 0.1 over VGG16 (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric").

torchvision's VGG16, features after the ReLU that ends each of five stages, and one weight a channel, learned from
people's judgements. Version 0.0 has the same names and a fault in its normalisation; it is told apart by its sums.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.perceptual.base import PERCEPTUAL, Perceptual, layer_distances
from mage_kit.perceptual.imagenet_colours import ImageNetColours
from mage_kit.perceptual.weight_files import file_digest, fill, read_state

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SUMS = (6.926, 8.858, 17.515, 51.521, 47.035)  # of version 0.1's weights, stage by stage
_NEAR = 5e-3  # of a sum, relative


class VGGStages(nn.Module):
    """The convolutions of VGG16, under torchvision's names; stages start at half the size of the one before."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        place, before = 0, 3
        for widths in _STAGES:
            for width in widths:
                layers[str(place)] = nn.Conv2d(before, width, 3, padding=1)
                place, before = place + 2, width  # a ReLU follows each
            place += 1  # and pooling each stage
        self.features = nn.ModuleDict(layers)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Normalised RGB (B, 3, H, W) -> features after each stage (B, K, H / 2^n, W / 2^n)."""
        stages, x, layers = [], images_B3HW, iter(self.features.values())
        for number, widths in enumerate(_STAGES):
            x = F.max_pool2d(x, 2) if number else x
            for _ in widths:
                x = F.relu(next(layers)(x))
            stages.append(x)
        return stages


@PERCEPTUAL.register("lpips_vgg")
class LPIPSVGG(Perceptual):
    """LPIPS 0.1 over VGG16, of the user's own files.

    Args:
        vgg: File of torchvision's VGG16 weights.
        linear: File of LPIPS 0.1's weights for VGG ("lin0.model.1.weight" and four more).

    Raises:
        MageKitError: If a file is absent or damaged, of another network, or LPIPS of another version.
    """

    network = "LPIPS-VGG"
    least = 32  # of which the last stage sees 2 x 2

    def __init__(self, *, vgg: str, linear: str) -> None:
        super().__init__()
        self.vgg, self.linear = vgg, linear
        self.sha256 = (file_digest(Path(vgg)), file_digest(Path(linear)))
        self.stages = VGGStages()
        fill(self.stages, read_state(Path(vgg)), Path(vgg), "VGG16", unused="classifier.")
        for number, weights_K in enumerate(_linear_weights(Path(linear))):
            self.register_buffer(f"weights_{number}", weights_K)
        # LPIPS' own layer, for pictures in [-1, 1], is (x - shift) / scale; in [0, 1] that is ImageNet's.
        self.colours = ImageNetColours()
        self.freeze()

    @classmethod
    def rehearse(cls, images_B3HW: Tensor) -> Tensor:
        """Send images through VGG16's stages."""
        with images_B3HW.device:
            features: Tensor = VGGStages()(images_B3HW)[-1]
            return features

    def distances(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Return LPIPS (B,)."""
        first, second = (self.stages(self.colours(x)) for x in (first_B3HW, second_B3HW))
        return layer_distances(first, second, [self.get_buffer(f"weights_{n}") for n in range(len(_STAGES))])


def _linear_weights(path: Path) -> list[Tensor]:
    """The five stages' weights (K,), checked."""
    state, weights = read_state(path), []
    for number, (widths, total) in enumerate(zip(_STAGES, _SUMS, strict=True)):
        name = next((key for key in (f"lin{number}.model.1.weight", f"lin{number}.1.weight") if key in state), None)
        if name is None or state[name].shape != (1, widths[-1], 1, 1):
            rule = f"must hold 'lin{number}.model.1.weight' of (1, {widths[-1]}, 1, 1), as LPIPS 0.1's for VGG"
            raise MageKitError(f"perceptual: '{path}', {rule}")
        weights_K = state[name].flatten().float()
        if bool((weights_K < 0).any()) or abs(float(weights_K.sum()) - total) > _NEAR * total:
            has = f"'{name}' adds up to {float(weights_K.sum()):.3f}"
            rule = f"must be {total} and nowhere below 0: LPIPS of another version (0.0 is at fault) or network"
            raise MageKitError(f"perceptual: '{path}', {has}, {rule}")
        weights.append(weights_K)
    return weights
