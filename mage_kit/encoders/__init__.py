"""Encoders: from kept tokens to features."""

from mage_kit.encoders.base import ENCODERS, Encoder
from mage_kit.encoders.vit_encoder import ViTEncoder

__all__ = ["ENCODERS", "Encoder", "ViTEncoder"]
