"""What the convolutional tokenizers share: encoder, nearest code, decoder, and the losses that train them.

Legend: B images, L tokens, V codes, W code width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mage_kit.base.grid import TokenGrid, TokenSpec
from mage_kit.base.processes import add_up
from mage_kit.tokenizers.base import TOKENS, Tokenizer, TokenizerLosses
from mage_kit.tokenizers.quantizer import Quantizer

FEATURES = "features"


class CodebookTokenizer(Tokenizer):
    """A tokenizer whose tokens are the nearest codes of a feature map.

    Attributes:
        quantize: The codebook.
        codebook_size: Number of codes, V.
        commitment: beta, the weight of the encoder's distance to its code.
        reconstruction: Pixel loss, "l1" or "l2".
    """

    quantize: Quantizer
    codebook_size: int
    commitment: float
    reconstruction: Literal["l1", "l2"]

    @abstractmethod
    def feature_map(self, images_BCHW: Tensor) -> Tensor:
        """Images in [0, 1] (B, C, H, W) -> features (B, W, h, w), before the nearest code is taken."""

    @abstractmethod
    def picture(self, codes_BWHX: Tensor) -> Tensor:
        """Codes (B, W, h, w) -> images (B, C, H, W), about [0, 1], not clamped."""

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return encoder features (B, L, W) in float32: distances in half precision would pick other codes.

        Args:
            images_BCHW: float images in [0, 1].
        """
        self.check_images(images_BCHW)
        features_BLW: Tensor = rearrange(self.feature_map(images_BCHW), "b w h x -> b (h x) w")
        return features_BLW.float()

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> ids (B, L) int64, row by row."""
        return self.quantize.nearest(self.features(images_BCHW))

    @property
    def streams(self) -> Mapping[str, TokenSpec]:
        """Codes, and the features that they were taken for (paper: supplement, Table 6, an input not quantised)."""
        return {TOKENS: self.spec, FEATURES: TokenSpec(self.spec.grid, None, self.spec.width)}

    @torch.no_grad()
    def encode_streams(self, images_BCHW: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return codes (B, L), features (B, L, W) as they are compared with codes, or both."""
        features_BLW = self.features(images_BCHW)
        streams = {TOKENS: self.quantize.nearest(features_BLW)} if TOKENS in names else {}
        return streams | ({FEATURES: self.quantize.prepare(features_BLW)} if FEATURES in names else {})

    def decode(self, tokens: Tensor) -> Tensor:
        """Ids (B, L) -> images (B, C, H, W), not clamped."""
        return self._image(self.quantize.lookup(tokens))

    def decode_weights(self, weights_BLV: Tensor) -> Tensor:
        """Weights (B, L, V) -> images (B, C, H, W), not clamped."""
        codes_VW = self.quantize.lookup(torch.arange(self.codebook_size, device=weights_BLV.device))
        return self._image(weights_BLV.to(codes_VW.dtype) @ codes_VW)

    def objective(self, images_BCHW: Tensor, progress: float, random: torch.Generator) -> TokenizerLosses:
        """Reconstruction + commitment, + the codebook's own loss where codes follow a gradient."""
        features_BLW = self.quantize.prepare(self.features(images_BCHW))
        self.before_look_up(features_BLW.detach(), progress, random)
        ids_BL = self.quantize.nearest(features_BLW)
        codes_BLW = self.quantize.lookup(ids_BL)
        commitment = F.mse_loss(features_BLW, codes_BLW.detach())
        through_BLW = features_BLW + (codes_BLW - features_BLW).detach()
        images = self._image(through_BLW).float()
        distance = F.mse_loss if self.reconstruction == "l2" else F.l1_loss
        reconstruction = distance(images, images_BCHW.float())
        total = reconstruction + self.commitment * commitment
        if self.quantize.learned:
            total = total + F.mse_loss(codes_BLW, features_BLW.detach())
        used = add_up(torch.bincount(ids_BL.flatten(), minlength=self.codebook_size))
        parts = {
            "loss": total,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "mse": F.mse_loss(images.clamp(0, 1), images_BCHW.float()),
            "codes_used": (used > 0).sum(),
        }
        return TokenizerLosses(total, {name: value.detach() for name, value in parts.items()}, images)

    def before_look_up(self, features_BLW: Tensor, progress: float, random: torch.Generator) -> None:
        """Move a codebook that follows running means; nothing where it follows a gradient."""

    def start_training(self) -> None:
        """Train all but a codebook that follows running means."""
        super().start_training()
        self.quantize.embedding.requires_grad_(self.quantize.learned)
        self.quantize.start_following()

    def finish_training(self) -> None:
        """Freeze, and forget the running means."""
        super().finish_training()
        self.quantize.stop_following()

    def _image(self, codes_BLW: Tensor) -> Tensor:
        grid = self.spec.grid
        return self.picture(rearrange(codes_BLW, "b (h x) w -> b w h x", h=grid.height, x=grid.width))


def level_widths(base_channels: int, multipliers: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """Return the width of each level, full resolution first.

    Raises:
        ValueError: If there is none, or `groups` does not divide one.
    """
    widths = tuple(base_channels * multiplier for multiplier in multipliers)
    if not widths or any(width % groups for width in widths):
        raise ValueError(f"norm_groups: {groups}, must divide every level's width ({list(widths)})")
    return widths


def grid_of(image_size: tuple[int, int], multipliers: tuple[int, ...]) -> TokenGrid:
    """Return the token grid of an image size, one halving between two levels.

    Raises:
        ValueError: If a side is no multiple of the down-sampling.
    """
    factor = 2 ** (len(multipliers) - 1)
    height, width = image_size
    if height % factor or width % factor:
        raise ValueError(
            f"image_size: {height}x{width}, must be multiples of {factor} "
            f"(2^({len(multipliers)} - 1) for {len(multipliers)} multipliers)"
        )
    return TokenGrid(height // factor, width // factor)
