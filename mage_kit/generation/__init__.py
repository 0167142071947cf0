"""Generation: iterative decoding from any known tokens."""

from mage_kit.generation.generate import Generated, Labels, Sampler, chosen_labels, generate, to_images
from mage_kit.generation.loop import Decoded, Step, Trace, Watch, decode_step, decode_tokens
from mage_kit.generation.preparation import Asked, generation_precision, prepare_to_generate
from mage_kit.generation.sample_files import write_samples
from mage_kit.generation.sampling import check_decoding
from mage_kit.generation.straight_through import Relaxed, straight_through

__all__ = [
    "Asked",
    "Decoded",
    "Generated",
    "Labels",
    "Relaxed",
    "Sampler",
    "Step",
    "Trace",
    "Watch",
    "check_decoding",
    "chosen_labels",
    "decode_step",
    "decode_tokens",
    "generate",
    "generation_precision",
    "prepare_to_generate",
    "straight_through",
    "to_images",
    "write_samples",
]
