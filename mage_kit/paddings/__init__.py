"""Paddings: what the decoder sees where the encoder saw nothing, or only a mask."""

from mage_kit.paddings.base import PADDINGS, Padding, PaddingWires
from mage_kit.paddings.class_token import ClassTokenPadding
from mage_kit.paddings.mask_token import MaskTokenPadding

__all__ = ["PADDINGS", "ClassTokenPadding", "MaskTokenPadding", "Padding", "PaddingWires"]
