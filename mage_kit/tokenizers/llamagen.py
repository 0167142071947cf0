"""LlamaGen's VQ-16: taming's network with narrow codes at unit length."""

from __future__ import annotations

from typing import Literal

from mage_kit.base.fields import NonNegativeFloat, Positive
from mage_kit.tokenizers.base import TOKENIZERS, Channels, ImageSize
from mage_kit.tokenizers.taming import AttentiveTokenizer


@TOKENIZERS.register("llamagen")
class LlamaGenVQ(AttentiveTokenizer):
    """VQ-16 of LlamaGen (Sun et al., 2024): taming's network, narrow codes compared and decoded at unit length.

    Args:
        image_size: Height and width in pixels, multiples of 2^(levels - 1).
        channels: 1 grey, 3 RGB, 4 RGBA.
        base_channels: Width of the first level.
        multipliers: Width of each level as a multiple of the first; one 2x down-sampling between two levels.
        res_blocks: Residual blocks a level; the decoder has one more.
        norm_groups: Groups of GroupNorm; must divide every level's width.
        z_channels: Width between the network and the 1x1 convolutions around the codes.
        codebook_size: Number of codes, V; 16384 published.
        codebook_dim: Width of a code; 8 published.
        commitment: beta, the weight of the encoder's distance to its code.
        reconstruction: Pixel loss: "l2" mean squared, "l1" mean absolute error.
    """

    unit_codes = True

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
        codebook_size: Positive = 16384,
        codebook_dim: Positive = 8,
        commitment: NonNegativeFloat = 0.25,
        reconstruction: Literal["l1", "l2"] = "l2",
    ) -> None:
        super().__init__(
            image_size=image_size,
            channels=channels,
            base_channels=base_channels,
            multipliers=multipliers,
            res_blocks=res_blocks,
            norm_groups=norm_groups,
            z_channels=z_channels,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            commitment=commitment,
            reconstruction=reconstruction,
        )
