"""The convolutional VQ tokenizer in MaskGIT's layout: one class to train it and to use it.

Parameter names are those of the published weights. Legend: B images, L tokens, V codes, W code width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mage_kit.fields import Fraction, NonNegativeFloat, Positive, Probability
from mage_kit.grid import TokenGrid, TokenSpec
from mage_kit.tokenizers.base import TOKENIZERS, Channels, ImageSize, Tokenizer, TokenizerLosses
from mage_kit.tokenizers.conv import ConvDecoder, ConvEncoder
from mage_kit.tokenizers.quantizer import Quantizer


@TOKENIZERS.register("vqgan")
class VQGAN(Tokenizer):
    """Convolutional encoder, nearest code, convolutional decoder (supplement, "Tokenizer and Detokenizer").

    The defaults are the published 256 x 256 model: 23.8M values in the encoder, 30.5M in the decoder. Training
    here minimises reconstruction and commitment; there is no adversarial or perceptual term.

    Args:
        image_size: Height and width in pixels, multiples of 2^(levels - 1).
        channels: 1 grey, 3 RGB, 4 RGBA.
        base_channels: Width of the first level.
        multipliers: Width of each level as a multiple of the first; one 2x down-sampling between two levels.
        res_blocks: Residual blocks a level; two more always stand at the lowest resolution.
        norm_groups: Groups of GroupNorm; must divide every level's width.
        codebook_size: Number of codes, V.
        codebook_dim: Width of a code.
        codebook: "ema" moves codes to the running mean of what they encode, "gradient" by the codebook loss.
        decay: Of the running mean; lower in the first steps.
        restart: A code used less than this share of the mean use is moved onto a random encoding (0: never; "ema").
        commitment: beta, the weight of the encoder's distance to its code.
        reconstruction: Pixel loss: "l2" mean squared, "l1" mean absolute error.
    """

    training_only = frozenset({"decay", "restart", "commitment", "reconstruction"})

    def __init__(
        self,
        *,
        image_size: ImageSize = (256, 256),
        channels: Channels = 3,
        base_channels: Positive = 128,
        multipliers: tuple[Positive, ...] = (1, 1, 2, 2, 4),
        res_blocks: Positive = 2,
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
        self.spec = TokenSpec(_grid(image_size, multipliers), codebook_size, codebook_dim)
        widths = [base_channels * multiplier for multiplier in multipliers]
        if not widths or any(width % norm_groups for width in widths):
            raise ValueError(f"norm_groups: {norm_groups}, must divide every level's width ({widths})")
        self.encoder = ConvEncoder(channels, widths, res_blocks, codebook_dim, norm_groups)
        self.decoder = ConvDecoder(channels, widths, res_blocks, codebook_dim, norm_groups)
        self.quantize = Quantizer(codebook_size, codebook_dim, learned=codebook == "gradient")

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> ids (B, L) int64, row by row."""
        self.check_images(images_BCHW)
        return self.quantize.nearest(self._features(images_BCHW))

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) -> images (B, C, H, W), not clamped."""
        codes_BLW = self.quantize.lookup(tokens)
        return self._image(codes_BLW)

    def start_training(self) -> None:
        """Train all but a codebook that follows running means."""
        super().start_training()
        self.quantize.embedding.requires_grad_(self.codebook == "gradient")

    def objective(self, images_BCHW: Tensor, progress: float, random: torch.Generator) -> TokenizerLosses:
        """Reconstruction + codebook terms; with "ema" also moves the codebook."""
        self.check_images(images_BCHW)
        features_BLW = self._features(images_BCHW)
        if self.codebook == "ema":
            restart = self.restart if progress < 0.8 else 0.0
            self.quantize.follow(features_BLW.detach(), self.decay, restart, random)
        ids_BL = self.quantize.nearest(features_BLW)
        codes_BLW = self.quantize.lookup(ids_BL)
        commitment = F.mse_loss(features_BLW, codes_BLW.detach())
        through_BLW = features_BLW + (codes_BLW - features_BLW).detach()
        images = self._image(through_BLW).float()
        distance = F.mse_loss if self.reconstruction == "l2" else F.l1_loss
        reconstruction = distance(images, images_BCHW.float())
        total = reconstruction + self.commitment * commitment
        if self.codebook == "gradient":
            total = total + F.mse_loss(codes_BLW, features_BLW.detach())
        used = torch.bincount(ids_BL.flatten(), minlength=self.codebook_size)
        parts = {
            "loss": total,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "mse": F.mse_loss(images.clamp(0, 1), images_BCHW.float()),
            "codes_used": (used > 0).sum(),
        }
        return TokenizerLosses(total, {name: value.detach() for name, value in parts.items()})

    def _features(self, images_BCHW: Tensor) -> Tensor:
        """Encoder features (B, L, W) in float32: distances in half precision would pick other codes."""
        features_BLW: Tensor = rearrange(self.encoder(images_BCHW), "b w h x -> b (h x) w")
        return features_BLW.float()

    def _image(self, codes_BLW: Tensor) -> Tensor:
        grid = self.spec.grid
        images: Tensor = self.decoder(rearrange(codes_BLW, "b (h x) w -> b w h x", h=grid.height, x=grid.width))
        return images


def _grid(image_size: tuple[int, int], multipliers: tuple[int, ...]) -> TokenGrid:
    factor = 2 ** (len(multipliers) - 1)
    height, width = image_size
    if height % factor or width % factor:
        raise ValueError(
            f"image_size: {height}x{width}, must be multiples of {factor} "
            f"(2^({len(multipliers)} - 1) for {len(multipliers)} multipliers)"
        )
    return TokenGrid(height // factor, width // factor)
