"""CompVis's f16 VQGAN: its names are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from mage_kit.legacy.layout import Layout, Options, Pair, Shapes
from mage_kit.legacy.vqgan import DEFAULT_SIZE, channels_of, multipliers_of
from mage_kit.tokenizers import TamingVQGAN


class TamingLayout(Layout):
    """343 tensors under "state_dict", and the training loss beside them."""

    kind = "taming"
    title = "CompVis's taming-transformers VQGAN, f16"
    reasons: ClassVar[Mapping[str, str]] = {r"loss\..*": "training loss: perceptual network and discriminator"}

    def recognises(self, names: set[str]) -> bool:
        """Convolutions with bias and a 1x1 convolution before the codes."""
        return {"encoder.conv_in.bias", "quant_conv.weight", "encoder.down.0.block.0.conv1.weight"} <= names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, blocks and codes."""
        return TamingVQGAN(**attentive_sizes(shapes, options, "encoder.down.{}.", "block"))

    def pairs(self, module: Any) -> list[Pair]:
        """The same names."""
        return [Pair(name, name) for name in module.state_dict()]


def attentive_sizes(shapes: Shapes, options: Options, level: str, block: str) -> dict[str, Any]:
    """Read the keywords of taming's and LlamaGen's tokenizer.

    Args:
        shapes: Of the file.
        options: What the file does not say.
        level: Pattern of a level's prefix.
        block: Name of the residual blocks in a level.
    """
    base, channels, *_ = shapes.of("encoder.conv_in.weight", 4)
    levels = range(shapes.count(level))
    widths = [shapes.of(f"{level.format(number)}{block}.0.conv1.weight", 4)[0] for number in levels]
    codes, width = shapes.of("quantize.embedding.weight", 2)
    return {
        "image_size": options.image_size or DEFAULT_SIZE,
        "channels": channels_of(channels),
        "base_channels": base,
        "multipliers": multipliers_of(widths, base),
        "res_blocks": shapes.count(f"{level.format(0)}{block}.{{}}."),
        "z_channels": shapes.of("quant_conv.weight", 4)[1],
        "codebook_size": codes,
        "codebook_dim": width,
    }
