"""Logits of ResNet50 (He et al., 2016), as VQGAN+ compares pictures (Weber et al., "MaskBit", section 2).

The mean squared difference of ImageNet's 1,000 logits, of pictures brought to 224 x 224 with antialiasing.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.perceptual.base import PERCEPTUAL, Perceptual
from mage_kit.perceptual.imagenet_colours import ImageNetColours
from mage_kit.perceptual.weight_files import file_digest, fill, read_state

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # narrow width, blocks
_WIDER = 4
_SIDE = 224


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the stride is the 3x3's, as torchvision's."""

    def __init__(self, inputs: int, narrow: int, stride: int) -> None:
        super().__init__()
        outputs = narrow * _WIDER
        self.conv1, self.bn1 = nn.Conv2d(inputs, narrow, 1, bias=False), nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3, self.bn3 = nn.Conv2d(narrow, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 narrow, H / stride, W / stride)."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(hidden)))))
        return F.relu(hidden + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """The network, under torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64)
        before = 64
        for number, (narrow, blocks) in enumerate(_STAGES):
            stage = []
            for block in range(blocks):
                stage.append(_Bottleneck(before, narrow, 2 if number and not block else 1))
                before = narrow * _WIDER
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(before, 1000)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Normalised RGB -> logits of ImageNet's classes (B, 1000)."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images_B3HW))), 3, 2, padding=1)
        for number in range(len(_STAGES)):
            x = self.get_submodule(f"layer{number + 1}")(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


@PERCEPTUAL.register("resnet50")
class ResNet50Logits(Perceptual):
    """Mean squared difference of ResNet50's logits, of the user's own file.

    Args:
        weights: File of torchvision's ResNet50 weights.

    Raises:
        MageKitError: If the file is absent or damaged, or of another network.
    """

    network = "ResNet50-logits"

    def __init__(self, *, weights: str) -> None:
        super().__init__()
        self.weights = weights
        self.sha256 = (file_digest(Path(weights)),)
        self.resnet50 = ResNet50()
        fill(self.resnet50, read_state(Path(weights)), Path(weights), "ResNet50")
        self.colours = ImageNetColours()
        self.freeze()

    @classmethod
    def rehearse(cls, images_B3HW: Tensor) -> Tensor:
        """Send images through ResNet50, at the side that it looks at."""
        with images_B3HW.device:
            logits: Tensor = ResNet50()(images_B3HW.new_empty(len(images_B3HW), 3, _SIDE, _SIDE).requires_grad_())
            return logits

    def distances(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """Return mean squared differences (B,)."""
        first, second = (self.resnet50(self._brought(images)) for images in (first_B3HW, second_B3HW))
        distances_B: Tensor = (first - second).square().mean(dim=1)
        return distances_B

    def _brought(self, images_B3HW: Tensor) -> Tensor:
        size = (_SIDE, _SIDE)
        resized = F.interpolate(images_B3HW, size=size, mode="bilinear", align_corners=False, antialias=True)
        normalised: Tensor = self.colours(resized)
        return normalised
