"""LlamaGen's VQ-16: taming's network with narrow codes at unit length."""

from __future__ import annotations

from typing import Any

from mage_kit.quantizers import QUANTIZERS, QuantizerSlot
from mage_kit.tokenizers.base import TOKENIZERS
from mage_kit.tokenizers.taming import AttentiveTokenizer

LLAMAGEN_CODES = QUANTIZERS.parse({"kind": "gradient", "codes": 16384, "width": 8, "unit": True})


@TOKENIZERS.register("llamagen")
class LlamaGenVQ(AttentiveTokenizer):
    """VQ-16 of LlamaGen (Sun et al., 2024): taming's network, narrow codes compared and decoded at unit length.

    Args:
        quantizer: How features become codes; published with 16384 codes of width 8 at unit length.
    """

    def __init__(self, *, quantizer: QuantizerSlot = LLAMAGEN_CODES, **shared: Any) -> None:
        super().__init__(quantizer=quantizer, **shared)
