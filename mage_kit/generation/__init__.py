"""Generation: iterative decoding from any known tokens."""

from mage_kit.generation.decoding import Generated, decode_tokens, generate
from mage_kit.generation.prepared import Asked, generation_precision, prepared

__all__ = ["Asked", "Generated", "decode_tokens", "generate", "generation_precision", "prepared"]
