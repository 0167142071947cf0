"""SqueezeNet 1.1 (Iandola et al., 2016): features of an ImageNet classifier that installs as a package.

Cheaper than EfficientNet-Lite0 by more than half. The distance is LPIPS' form without learned weights, and is called by
the network's own name: it is no LPIPS. The package holds Keras' weights: kernels (h, w, inputs, outputs), BGR, means
taken off in bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.perceptual.array_pickles import read_arrays
from mage_kit.perceptual.base import PERCEPTUAL
from mage_kit.perceptual.package_network import PackageNetwork
from mage_kit.perceptual.same_padding import pad_same
from mage_kit.perceptual.weight_files import file_digest, fill, installed_file

_PACKAGE, _FILE = "ndf", "example_models/weights/squeezenet_weights.pkl"
_MEAN = (103.939, 116.779, 123.68)  # of blue, green, red
# Squeezed and each half's expanded width, of the fires 2 to 9; pooling comes before the first of each size.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOLS = (0, 2, 4)  # fires, from 0, that pooling comes before


class _Fire(nn.Module):
    """1x1 down, then 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 2 wide, H, W)."""
        x = F.relu(self.squeeze1x1(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), dim=1)


class SqueezeNet(nn.Module):
    """The network, under the package's names, with dots for slashes."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        before = 64
        for number, (narrow, wide) in enumerate(_FIRES):
            self.add_module(f"fire{number + 2}", _Fire(before, narrow, wide))
            before = 2 * wide
        self.conv10 = nn.Conv2d(before, 1000, 1)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)

    def stages(self, images_B3HW: Tensor) -> list[Tensor]:
        """RGB in [0, 1] -> features of seven places (B, K, h, w): the stem, and the fires 3, 5, 6, 7, 8, 9."""
        x = 255 * images_B3HW.flip(1) - self.mean
        x = F.relu(self.conv1(pad_same(x, 3, 2)))
        outputs = [x]
        for number in range(len(_FIRES)):
            x = F.max_pool2d(x, 3, 2) if number in _POOLS else x
            x = self.get_submodule(f"fire{number + 2}")(x)
            if number not in (0, 2):
                outputs.append(x)
        return outputs

    def features(self, images_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] -> features before the classifier, mean over places (B, 512)."""
        return self.stages(images_B3HW)[-1].mean(dim=(2, 3))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """RGB in [0, 1] -> logits of ImageNet's classes (B, 1000)."""
        return F.relu(self.conv10(self.stages(images_B3HW)[-1])).mean(dim=(2, 3))


def load_squeezenet() -> tuple[SqueezeNet, str]:
    """Return the network with the installed package's weights, frozen, and the SHA-256 of their file.

    Raises:
        MissingExtraError: If the package is not installed.
        MageKitError: If its file is another.
    """
    path: Path = installed_file(_PACKAGE, _FILE, SqueezeNetDistance.network)
    state: dict[str, Tensor] = {}
    for name, arrays in read_arrays(path).items():
        kernel, *biases = (torch.from_numpy(array.copy()) for array in arrays)
        state[f"{name.replace('/', '.')}.weight"] = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel
        if biases:
            state[f"{name.replace('/', '.')}.bias"] = biases[0].flatten()
    network = SqueezeNet()
    fill(network, state, path, SqueezeNetDistance.network)
    return network.requires_grad_(False).eval(), file_digest(path)


@PERCEPTUAL.register("squeezenet")
class SqueezeNetDistance(PackageNetwork):
    """Distance of SqueezeNet 1.1's features (extra `perceptual`), seven places alike; it is no LPIPS.

    Raises:
        MissingExtraError: If the package is not installed.
    """

    network = "SqueezeNet-1.1"

    @classmethod
    def load(cls) -> tuple[SqueezeNet, str]:
        """Return the network with the installed package's weights, frozen, and the SHA-256 of their file."""
        return load_squeezenet()

    @classmethod
    def make(cls) -> SqueezeNet:
        """Return the network with random weights."""
        return SqueezeNet()
