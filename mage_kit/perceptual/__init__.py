"""Perceptual distances: frozen networks that tell how far two pictures are apart, each called by its own name."""

from mage_kit.perceptual.base import (
    PERCEPTUAL,
    Perceptual,
    PerceptualSlot,
    build_perceptual,
    channel_problem,
    perceptual_config,
)
from mage_kit.perceptual.lite0 import Lite0Distance
from mage_kit.perceptual.lpips_vgg import LPIPSVGG
from mage_kit.perceptual.package_network import installed_networks
from mage_kit.perceptual.resnet50 import ResNet50Logits
from mage_kit.perceptual.squeezenet import SqueezeNetDistance

__all__ = [
    "LPIPSVGG",
    "PERCEPTUAL",
    "Lite0Distance",
    "Perceptual",
    "PerceptualSlot",
    "ResNet50Logits",
    "SqueezeNetDistance",
    "build_perceptual",
    "channel_problem",
    "installed_networks",
    "perceptual_config",
]
