"""Running means as LitEma keeps them: names without dots, `encoderconv_inweight` for `encoder.conv_in.weight`.

Words of a tokenizer's names are few, and none begins where another could end, so that dots can be put back.
"""

from __future__ import annotations

import re
from collections.abc import Collection

COUNTERS = ("num_updates", "decay")
"""What LitEma keeps beside the weights."""

_WORDS = (
    "encoder", "decoder", "conv_blocks", "down", "up", "mid", "res", r"block_\d+", "block", r"attn_\d+", "attn",
    "downsample", "upsample", "conv_in", "conv_out", "conv1", "conv2", "conv", "norm_out", "norm1", "norm2", "norm",
    "nin_shortcut", "q", "k", "v", "proj_out", "post_quant_conv", "quant_conv", "quantize", "embedding", "weight",
    "bias", r"\d+",
)  # fmt: skip
_WORD = re.compile("|".join(sorted(_WORDS, key=len, reverse=True)))
_LOSS = "loss"


def dotted(name: str) -> str | None:
    """Return a name with its dots; None where it is no tensor's of a tokenizer."""
    if name.startswith(_LOSS):
        return f"{_LOSS}.{name.removeprefix(_LOSS)}"
    words = _WORD.findall(name)
    return ".".join(words) if words and "".join(words) == name else None


def flat_prefixes(names: Collection[str]) -> list[str]:
    """Return the prefixes below which such running means stand."""
    ends = {name.removesuffix(counter) for counter in COUNTERS for name in names if name.endswith(counter)}
    return sorted(prefix for prefix in ends if not prefix or prefix.endswith("."))


def dotted_below(names: Collection[str], prefix: str) -> dict[str, str]:
    """Return what the names below a prefix are with dots, without those that are no tensor's of a tokenizer."""
    below = [name for name in names if name.startswith(prefix) and "." not in name[len(prefix) :]]
    pairs = {name: dotted(name.removeprefix(prefix)) for name in below}
    return {name: whole for name, whole in pairs.items() if whole is not None}
