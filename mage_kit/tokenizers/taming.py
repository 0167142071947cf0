"""CompVis's VQGAN with 16x down-sampling, the tokenizer of taming-transformers.

Never to be confused with `vqgan`, MaskGIT's layout: other network, other names, other pixel range.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from mage_kit.base.fields import NonNegativeFloat, Positive
from mage_kit.base.grid import TokenSpec
from mage_kit.tokenizers.attentive import AttentiveDecoder, AttentiveEncoder
from mage_kit.tokenizers.base import TOKENIZERS, Channels, ImageSize
from mage_kit.tokenizers.codebook import CodebookTokenizer, grid_of, level_widths
from mage_kit.tokenizers.conv import ConvSizes
from mage_kit.tokenizers.quantizer import Quantizer


class AttentiveTokenizer(CodebookTokenizer):
    """What taming's and LlamaGen's tokenizer share; `unit_codes` is the difference.

    The network works on pixels in [-1, 1]; images here are in [0, 1] like everywhere else.
    """

    training_only = frozenset({"commitment", "reconstruction"})
    unit_codes: ClassVar[bool]

    def __init__(
        self,
        *,
        image_size: ImageSize = (256, 256),
        channels: Channels = 3,
        base_channels: Positive = 128,
        multipliers: tuple[Positive, ...] = (1, 1, 2, 2, 4),
        res_blocks: Positive = 2,
        norm_groups: Positive = 32,
        z_channels: Positive = 256,
        codebook_size: Positive = 1024,
        codebook_dim: Positive = 256,
        commitment: NonNegativeFloat = 0.25,
        reconstruction: Literal["l1", "l2"] = "l2",
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.base_channels = image_size, channels, base_channels
        self.multipliers, self.res_blocks, self.norm_groups = multipliers, res_blocks, norm_groups
        self.z_channels, self.codebook_size, self.codebook_dim = z_channels, codebook_size, codebook_dim
        self.commitment, self.reconstruction = commitment, reconstruction
        self.spec = TokenSpec(grid_of(image_size, multipliers), codebook_size, codebook_dim)
        widths = level_widths(base_channels, multipliers, norm_groups)
        sizes = ConvSizes(channels, widths, res_blocks, z_channels, norm_groups)
        self.encoder, self.decoder = AttentiveEncoder(sizes), AttentiveDecoder(sizes)
        self.quant_conv = nn.Conv2d(z_channels, codebook_dim, 1)
        self.post_quant_conv = nn.Conv2d(codebook_dim, z_channels, 1)
        self.quantize = Quantizer(codebook_size, codebook_dim, learned=True, unit=self.unit_codes)

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
        image_size: Height and width in pixels, multiples of 2^(levels - 1).
        channels: 1 grey, 3 RGB, 4 RGBA.
        base_channels: Width of the first level.
        multipliers: Width of each level as a multiple of the first; one 2x down-sampling between two levels.
        res_blocks: Residual blocks a level; the decoder has one more.
        norm_groups: Groups of GroupNorm; must divide every level's width.
        z_channels: Width between the network and the 1x1 convolutions around the codes.
        codebook_size: Number of codes, V.
        codebook_dim: Width of a code.
        commitment: beta, the weight of the encoder's distance to its code.
        reconstruction: Pixel loss: "l2" mean squared, "l1" mean absolute error.
    """

    unit_codes = False
