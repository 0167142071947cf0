"""LlamaGen's VQ-16: taming's network under other names, the decoder's levels numbered as they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from mage_kit.legacy.layout import Layout, Options, Pair, Shapes, one_to_one
from mage_kit.legacy.taming_layout import attentive_sizes
from mage_kit.tokenizers import LlamaGenVQ


class LlamaGenLayout(Layout):
    """344 tensors, under "model"; "ema", where there is one, is preferred."""

    kind = "llamagen"
    title = "LlamaGen's VQ-16"
    marker = "encoder.conv_blocks.0.res.0.conv1.weight"
    container = "model"
    reasons: ClassVar[Mapping[str, str]] = {
        r"quantize\.codebook_used": "record of recently used codes, for training statistics"
    }

    def recognises(self, names: set[str]) -> bool:
        """Levels are called conv_blocks."""
        return self.marker in names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, blocks and codes."""
        return LlamaGenVQ(**attentive_sizes(shapes, options, "encoder.conv_blocks.{}.", "res", "attn", unit=True))

    def pairs(self, module: Any) -> list[Pair]:
        """Levels and middle renamed."""
        levels = len(module.multipliers)
        rename = {
            f"{half}.mid.{ours}.": f"{half}.mid.{place}."
            for half in ("encoder", "decoder")
            for place, ours in enumerate(("block_1", "attn_1", "block_2"))
        }
        for level in range(levels):
            for half, ours, theirs in (("encoder", "down", level), ("decoder", "up", levels - 1 - level)):
                rename[f"{half}.{ours}.{level}."] = f"{half}.conv_blocks.{theirs}."
                rename[f"{half}.{ours}.{level}.block."] = f"{half}.conv_blocks.{theirs}.res."
        return one_to_one(module.state_dict(), rename)
