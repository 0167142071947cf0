"""CompVis's VQGAN with 16x down-sampling, the tokenizer of taming-transformers.

Never to be confused with `vqgan`, MaskGIT's layout: other network, other names, other pixel range.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mage_kit.base.fields import Positive
from mage_kit.quantizers import QUANTIZERS, QuantizerSlot
from mage_kit.tokenizers.attentive import AttentiveDecoder, AttentiveEncoder
from mage_kit.tokenizers.base import TOKENIZERS
from mage_kit.tokenizers.conv import ConvSizes
from mage_kit.tokenizers.feature_maps import CodebookTokenizer

TAMING_CODES = QUANTIZERS.parse({"kind": "gradient", "codes": 1024, "width": 256})


class AttentiveTokenizer(CodebookTokenizer):
    """What taming's and LlamaGen's tokenizer share: the network; its decoder has one residual block a level more.

    It works on pixels in [-1, 1]; images here are in [0, 1] like everywhere else.

    Args:
        z_channels: Width between the network and the 1x1 convolutions around the codes.
    """

    decoding_parts = ("decoder", "post_quant_conv")

    def __init__(self, *, z_channels: Positive = 256, **shared: Any) -> None:
        self.z_channels = z_channels  # before the halves are made
        super().__init__(**shared)

    def build_halves(self, widths: tuple[int, ...]) -> None:
        """Make the two halves, and the 1x1 convolutions to the codes' width and back."""
        sizes = ConvSizes(self.channels, widths, self.res_blocks, self.z_channels, self.norm_groups)
        self.encoder, self.decoder = AttentiveEncoder(sizes), AttentiveDecoder(sizes)
        self.quant_conv = nn.Conv2d(self.z_channels, self.spec.width, 1)
        self.post_quant_conv = nn.Conv2d(self.spec.width, self.z_channels, 1)

    def feature_map(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, W, h, w), after the 1x1 convolution to the codes' width."""
        features: Tensor = self.quant_conv(self.encoder(2 * images_BCHW - 1))
        return features

    def picture(self, codes_BWHX: Tensor) -> Tensor:
        """(B, W, h, w) -> (B, C, H, W)."""
        images: Tensor = (self.decoder(self.post_quant_conv(codes_BWHX)) + 1) / 2
        return images


@TOKENIZERS.register("taming")
class TamingVQGAN(AttentiveTokenizer):
    """VQGAN of taming-transformers with 16x down-sampling (Esser et al., 2021), 1024 or 16384 codes.

    Args:
        quantizer: How features become codes; published with codes that follow a gradient.
    """

    def __init__(self, *, quantizer: QuantizerSlot = TAMING_CODES, **shared: Any) -> None:
        super().__init__(quantizer=quantizer, **shared)
