"""Tokenizers: from images to tokens and back."""

from mage_kit.tokenizers.base import TOKENIZERS, TOKENS, Tokenizer, TokenizerLosses
from mage_kit.tokenizers.feature_maps import CodebookTokenizer
from mage_kit.tokenizers.llamagen import LlamaGenVQ
from mage_kit.tokenizers.patches import Patches
from mage_kit.tokenizers.taming import TamingVQGAN
from mage_kit.tokenizers.vqgan import VQGAN

__all__ = [
    "TOKENIZERS",
    "TOKENS",
    "VQGAN",
    "CodebookTokenizer",
    "LlamaGenVQ",
    "Patches",
    "TamingVQGAN",
    "Tokenizer",
    "TokenizerLosses",
]
