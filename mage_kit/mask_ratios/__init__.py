"""Training mask ratios: the distribution from which each image's (or group's) ratio is drawn."""

from mage_kit.mask_ratios import angular, fixed, truncated_normal, uniform
from mage_kit.mask_ratios.angular import ArccosRatio, CosineRatio
from mage_kit.mask_ratios.base import MASK_RATIOS, MaskRatio, draw
from mage_kit.mask_ratios.fixed import FixedRatio
from mage_kit.mask_ratios.truncated_normal import TruncatedNormalRatio
from mage_kit.mask_ratios.uniform import UniformRatio

__all__ = [
    "MASK_RATIOS",
    "ArccosRatio",
    "CosineRatio",
    "FixedRatio",
    "MaskRatio",
    "TruncatedNormalRatio",
    "UniformRatio",
    "angular",
    "draw",
    "fixed",
    "truncated_normal",
    "uniform",
]
