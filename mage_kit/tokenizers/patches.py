"""Pixels as tokens: MAE's way, without a codebook and without training."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from mage_kit.base.doors import check_tokens
from mage_kit.base.fields import Positive
from mage_kit.base.grid import TokenGrid, TokenSpec
from mage_kit.tokenizers.base import TOKENIZERS, Channels, ImageSize, Tokenizer


@TOKENIZERS.register("patches")
class Patches(Tokenizer):
    """Cuts an image into square patches of normalised pixels; a token's width is patch x patch x channels.

    Args:
        image_size: Height and width in pixels, multiples of `patch`.
        channels: 1 grey, 3 RGB, 4 RGBA.
        patch: Side of a patch in pixels.
        mean: Subtracted from the pixels: one value a channel, or one for all.
        std: Divides the pixels after that: one value a channel, or one for all.
    """

    needs_training = False

    def __init__(
        self,
        *,
        image_size: ImageSize = (224, 224),
        channels: Channels = 3,
        patch: Positive = 16,
        mean: tuple[float, ...] = (0.5,),
        std: tuple[float, ...] = (0.25,),
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.patch, self.mean, self.std = (
            image_size,
            channels,
            patch,
            mean,
            std,
        )
        height, width = image_size
        if height % patch or width % patch:
            raise ValueError(f"image_size: {height}x{width}, must be multiples of patch ({patch})")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels) or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name}: {values}, must be 1 or {channels} finite values")
        if min(std) <= 0:
            raise ValueError(f"std: {std}, must be above 0")
        self.spec = TokenSpec(TokenGrid(height // patch, width // patch), None, patch * patch * channels)
        self.register_buffer("_mean", torch.tensor(mean)[None, :, None, None], persistent=False)
        self.register_buffer("_std", torch.tensor(std)[None, :, None, None], persistent=False)

    _mean: Tensor
    _std: Tensor

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, L, W)."""
        self.check_images(images_BCHW)
        pixels = (images_BCHW - self._mean) / self._std
        return rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", p=self.patch, q=self.patch)

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, L, W) -> (B, C, H, W)."""
        check_tokens("tokens", tokens, (self.spec.grid.size, self.patch**2 * self.channels), None, None)
        grid, side = self.spec.grid, self.patch
        pixels = rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=grid.height, w=grid.width, p=side, q=side)
        images: Tensor = pixels * self._std + self._mean
        return images
