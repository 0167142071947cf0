"""Generation: iterative decoding from any known tokens."""

from mage_kit.generation.decoding import Generated, decode_tokens, generate

__all__ = ["Generated", "decode_tokens", "generate"]
