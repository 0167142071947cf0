"""Decoders: from the padded grid to features of every position."""

from mage_kit.decoders.base import DECODERS, Decoder, DecoderWires
from mage_kit.decoders.class_vit import ClassViTDecoder
from mage_kit.decoders.linear import LinearDecoder
from mage_kit.decoders.vit_decoder import ViTDecoder

__all__ = ["DECODERS", "ClassViTDecoder", "Decoder", "DecoderWires", "LinearDecoder", "ViTDecoder"]
