"""The convolutional VQ tokenizer in MaskGIT's layout: one class to train it and to use it.

Parameter names are those of the published weights. Legend: B images, L tokens, V codes, W code width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mage_kit.base.fields import Fraction, NonNegativeFloat, Positive, Probability
from mage_kit.base.grid import TokenSpec
from mage_kit.tokenizers.base import TOKENIZERS, Channels, ImageSize
from mage_kit.tokenizers.codebook import CodebookTokenizer, grid_of, level_widths
from mage_kit.tokenizers.conv import ConvDecoder, ConvEncoder, ConvSizes
from mage_kit.tokenizers.quantizer import Quantizer


@TOKENIZERS.register("vqgan")
class VQGAN(CodebookTokenizer):
    """Convolutional encoder, nearest code, convolutional decoder (supplement, "Tokenizer and Detokenizer").

    The defaults are the published 256 x 256 model: 23.8M values in the encoder, 30.5M in the decoder. Training
    here minimises reconstruction and commitment; there is no adversarial or perceptual term.

    Args:
        image_size: Height and width in pixels, multiples of 2^(levels - 1).
        channels: 1 grey, 3 RGB, 4 RGBA.
        base_channels: Width of the first level.
        multipliers: Width of each level as a multiple of the first; one 2x down-sampling between two levels.
        res_blocks: Residual blocks a level.
        middle_blocks: Residual blocks more at the lowest resolution.
        norm_groups: Groups of GroupNorm; must divide every level's width.
        codebook_size: Number of codes, V.
        codebook_dim: Width of a code.
        codebook: "ema" moves codes to the running mean of what they encode, "gradient" by the codebook loss.
        decay: Of the running mean; lower in the first steps.
        restart: A code used less than this share of the mean use is moved onto a random encoding (0: never; "ema").
        commitment: beta, the weight of the encoder's distance to its code.
        reconstruction: Pixel loss: "l2" mean squared, "l1" mean absolute error.
    """

    training_only = frozenset({"codebook", "decay", "restart", "commitment", "reconstruction"})

    def __init__(
        self,
        *,
        image_size: ImageSize = (256, 256),
        channels: Channels = 3,
        base_channels: Positive = 128,
        multipliers: tuple[Positive, ...] = (1, 1, 2, 2, 4),
        res_blocks: Positive = 2,
        middle_blocks: Positive = 2,
        norm_groups: Positive = 32,
        codebook_size: Positive = 1024,
        codebook_dim: Positive = 256,
        codebook: Literal["ema", "gradient"] = "ema",
        decay: Probability = 0.99,
        restart: Fraction = 0.03,
        commitment: NonNegativeFloat = 0.25,
        reconstruction: Literal["l1", "l2"] = "l2",
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.base_channels = image_size, channels, base_channels
        self.multipliers, self.res_blocks, self.norm_groups = multipliers, res_blocks, norm_groups
        self.codebook_size, self.codebook_dim, self.codebook = codebook_size, codebook_dim, codebook
        self.decay, self.restart, self.commitment, self.reconstruction = (
            decay,
            restart,
            commitment,
            reconstruction,
        )
        self.middle_blocks = middle_blocks
        self.spec = TokenSpec(grid_of(image_size, multipliers), codebook_size, codebook_dim)
        widths = level_widths(base_channels, multipliers, norm_groups)
        sizes = ConvSizes(channels, widths, res_blocks, codebook_dim, norm_groups, middle_blocks)
        self.encoder, self.decoder = ConvEncoder(sizes), ConvDecoder(sizes)
        self.quantize = Quantizer(codebook_size, codebook_dim, learned=codebook == "gradient")

    def feature_map(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, W, h, w)."""
        features: Tensor = self.encoder(images_BCHW)
        return features

    def picture(self, codes_BWHX: Tensor) -> Tensor:
        """(B, W, h, w) -> (B, C, H, W)."""
        images: Tensor = self.decoder(codes_BWHX)
        return images

    def before_look_up(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> None:
        """With "ema", move the codes to the running mean of what they encode."""
        if self.codebook == "ema":
            self.quantize.follow(features_BLW, self.decay, self.restart if progress < 0.8 else 0.0, random)
