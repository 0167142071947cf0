"""The convolutional VQ tokenizer in MaskGIT's layout: one class to train it and to use it.

Parameter names are those of the published weights. Legend: B images, C channels, W code width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mage_kit.base.fields import Depth
from mage_kit.tokenizers.base import TOKENIZERS
from mage_kit.tokenizers.conv import ConvDecoder, ConvEncoder, ConvSizes
from mage_kit.tokenizers.feature_maps import CodebookTokenizer


@TOKENIZERS.register("vqgan")
class VQGAN(CodebookTokenizer):
    """Convolutional encoder, nearest code, convolutional decoder (supplement, "Tokenizer and Detokenizer").

    The defaults are the published 256 x 256 model: 23.8M values in the encoder, 30.5M in the decoder. By itself it
    minimises reconstruction and commitment; tasks add perceptual and adversarial terms.

    Args:
        middle_blocks: Residual blocks more at the lowest resolution.
    """

    def __init__(self, *, middle_blocks: Depth = 2, **shared: Any) -> None:
        self.middle_blocks = middle_blocks  # before the halves are made
        super().__init__(**shared)

    def build_halves(self, widths: tuple[int, ...]) -> None:
        """Make the two halves; the last convolution gives the codes' width."""
        sizes = ConvSizes(self.channels, widths, self.res_blocks, self.spec.width, self.norm_groups, self.middle_blocks)
        self.encoder, self.decoder = ConvEncoder(sizes), ConvDecoder(sizes)

    def feature_map(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, W, h, w)."""
        features: Tensor = self.encoder(images_BCHW)
        return features

    def picture(self, codes_BWHX: Tensor) -> Tensor:
        """(B, W, h, w) -> (B, C, H, W)."""
        images: Tensor = self.decoder(codes_BWHX)
        return images
