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
from mage_kit.quantizers.finite_scalars import FSQ
from mage_kit.quantizers.index_gradients import IBQ
from mage_kit.quantizers.learned_codes import GradientCodebook
from mage_kit.quantizers.linear_codes import SimVQ
from mage_kit.quantizers.running_means import EMACodebook
from mage_kit.quantizers.signs import BSQ, LFQ

__all__ = [
    "BSQ",
    "FSQ",
    "IBQ",
    "LFQ",
    "QUANTIZERS",
    "Codebook",
    "EMACodebook",
    "GradientCodebook",
    "Quantized",
    "Quantizer",
    "QuantizerSlot",
    "SimVQ",
    "build_quantizer",
    "quantizer_sizes",
]
