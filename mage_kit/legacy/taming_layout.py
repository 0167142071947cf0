"""CompVis's f16 VQGAN: its names are ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from mage_kit.legacy.layout import Layout, Options, Shapes
from mage_kit.legacy.vqgan_layout import conv_sizes
from mage_kit.quantizers import GradientCodebook
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
        return TamingVQGAN(**attentive_sizes(shapes, options, "encoder.down.{}.", "block", unit=False))


def attentive_sizes(shapes: Shapes, options: Options, level: str, block: str, *, unit: bool) -> dict[str, Any]:
    """Read the keywords of taming's and LlamaGen's tokenizer, the latter's codes at unit length; see `conv_sizes`."""
    sizes = conv_sizes(shapes, options, level, block, partial(GradientCodebook, unit=unit))
    return {**sizes, "z_channels": shapes.of("quant_conv.weight", 4)[1]}
