"""The halves of CompVis's VQGAN (Esser et al., 2021): strided down-sampling, attention at the lowest level.

Taming's f16 models and LlamaGen's VQ-16 are this network under two sets of names. It is not MaskGIT's: every
convolution has a bias, the shortcut reads the block's input, and a decoder level has one residual block more.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mage_kit.tokenizers.conv import EPS, ConvSizes


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, added to the input; a 1x1 convolution where widths differ."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        branch = self.conv1(F.silu(self.norm1(x)))
        branch = self.conv2(F.silu(self.norm2(branch)))
        out: Tensor = branch + (x if self.nin_shortcut is None else self.nin_shortcut(x))
        return out


class SpatialAttention(nn.Module):
    """One head over all positions, added to the input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        normed = self.norm(x)
        query, key, value = (rearrange(part(normed), "b c h w -> b (h w) c") for part in (self.q, self.k, self.v))
        context = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.proj_out(rearrange(context, "b (h w) c -> b c h w", h=x.shape[2]))
        return out


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where the level has it.

    Args:
        inputs: Width before.
        outputs: Width after.
        blocks: Residual blocks.
        groups: Of GroupNorm.
        attention: Whether this level has it.
        then: What follows the blocks, on the way down or up.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        groups: int,
        *,
        attention: bool,
        then: Literal["nothing", "halve", "enlarge"],
    ) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResBlock(widths[i], widths[i + 1], groups) for i in range(blocks))
        self.attn = nn.ModuleList(SpatialAttention(outputs, groups) for _ in range(blocks if attention else 0))
        if then == "halve":
            self.downsample = nn.ModuleDict({"conv": nn.Conv2d(outputs, outputs, 3, stride=2)})
        if then == "enlarge":
            self.upsample = nn.ModuleDict({"conv": nn.Conv2d(outputs, outputs, 3, padding=1)})
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), half or twice as large where something follows."""
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[number](x)
        if self.then == "halve":
            x = self.downsample["conv"](F.pad(x, (0, 1, 0, 1)))
        if self.then == "enlarge":
            x = self.upsample["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, groups)
        self.attn_1 = SpatialAttention(width, groups)
        self.block_2 = ResBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class AttentiveEncoder(nn.Module):
    """Images to features; halved by a strided convolution, with zeros at the bottom and right only."""

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        widths, groups, last = sizes.widths, sizes.groups, len(sizes.widths) - 1
        self.conv_in = nn.Conv2d(sizes.channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                before,
                after,
                sizes.blocks,
                groups,
                attention=number == last,
                then="halve" if number < last else "nothing",
            )
            for number, (before, after) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
        )
        self.mid = Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], sizes.features, 3, padding=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, features, H / f, W / f)."""
        x = self.conv_in(images_BCHW)
        for level in self.down:
            x = level(x)
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return features


class AttentiveDecoder(nn.Module):
    """Features to images; `up` is numbered by resolution, the largest 0."""

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        widths, groups, last = sizes.widths, sizes.groups, len(sizes.widths) - 1
        self.conv_in = nn.Conv2d(sizes.features, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups)
        self.up = nn.ModuleList(
            Level(
                wide,
                width,
                sizes.blocks + 1,
                groups,
                attention=number == last,
                then="enlarge" if number > 0 else "nothing",
            )
            for number, (wide, width) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], sizes.channels, 3, padding=1)

    def forward(self, features_BWHX: Tensor) -> Tensor:
        """(B, features, H / f, W / f) -> (B, C, H, W)."""
        x = self.mid(self.conv_in(features_BWHX))
        for level in reversed(list(self.up)):
            x = level(x)
        images: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return images
