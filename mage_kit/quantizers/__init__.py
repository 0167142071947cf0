"""Quantizers: how a tokenizer's features become codes, and how the codes are learned."""

from mage_kit.quantizers.base import (
    QUANTIZERS,
    Quantized,
    Quantizer,
    QuantizerSlot,
    build_quantizer,
    quantizer_sizes,
)
from mage_kit.quantizers.codebook import Codebook
from mage_kit.quantizers.learned_codes import GradientCodebook
from mage_kit.quantizers.running_means import EMACodebook

__all__ = [
    "QUANTIZERS",
    "Codebook",
    "EMACodebook",
    "GradientCodebook",
    "Quantized",
    "Quantizer",
    "QuantizerSlot",
    "build_quantizer",
    "quantizer_sizes",
]
