"""CompVis's f16 VQGAN: its names are ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from mage_kit.legacy.layout import Layout, LayoutError, Options, Shapes
from mage_kit.legacy.vqgan_layout import conv_sizes
from mage_kit.quantizers import GradientCodebook
from mage_kit.tokenizers import TamingVQGAN


class TamingLayout(Layout):
    """343 tensors under "state_dict", and the training loss beside them."""

    kind = "taming"
    title = "CompVis's taming-transformers VQGAN, f16"
    marker = "encoder.down.0.block.0.conv1.weight"
    reasons: ClassVar[Mapping[str, str]] = {r"loss\..*": "training loss: perceptual network and discriminator"}

    def recognises(self, names: set[str]) -> bool:
        """Convolutions with bias and a 1x1 convolution before the codes."""
        return {"encoder.conv_in.bias", "quant_conv.weight", self.marker} <= names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, blocks and codes."""
        return TamingVQGAN(**attentive_sizes(shapes, options, "encoder.down.{}.", "block", "attn", unit=False))


def attentive_sizes(
    shapes: Shapes, options: Options, level: str, block: str, attention: str, *, unit: bool
) -> dict[str, Any]:
    """Read the keywords of taming's and LlamaGen's tokenizer, the latter's codes at unit length; see `conv_sizes`.

    Raises:
        LayoutError: If a tensor is missing that tells a size, or attention lies at other levels than the lowest.
    """
    places = [level.format(number) for number in range(shapes.count(level))]
    attentive = [place for place in places if shapes.count(f"{place}{attention}.{{}}.")]
    if places and attentive != places[-1:]:
        has = ", ".join(attentive) or "no level"
        raise LayoutError(f"attention: {has} has it, must be the lowest level ({places[-1]}) alone")
    sizes = conv_sizes(shapes, options, level, block, partial(GradientCodebook, unit=unit))
    return {**sizes, "z_channels": shapes.of("quant_conv.weight", 4)[1]}
