"""The VQGAN's convolutional halves, in MaskGIT's layout: average pooling down, nearest x2 up, no attention."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import autocast_dtype, without_autocast
from torch import Tensor, nn

EPS = 1e-6
_SHIFT = 0.02  # deviation of the encoder norms' biases before training
_WIDE_FROM = 2  # level whose sides are a quarter of the image's


@dataclass(frozen=True)
class ConvSizes:
    """What encoder and decoder share.

    Args:
        channels: Of the images.
        widths: Of the levels, full resolution first.
        blocks: Residual blocks a level.
        features: Width of the features between encoder and decoder.
        groups: Of GroupNorm.
        middle: Residual blocks more at the lowest resolution, where their number can vary.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: int
    features: int
    groups: int
    middle: int = 2


def activate(normed: Tensor) -> Tensor:
    """SiLU of a norm's output; in place where no gradient will ask for the input."""
    return F.silu(normed, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice; residual.

    Where widths differ, the 1x1 shortcut is applied to the branch's output and not to the block's input, as the
    published weights demand: out = shortcut(h) + h.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor, wide: bool = False) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W); with `wide` norms and sums are float32 whatever convolutions are."""
        x = x.float() if wide else x
        branch: Tensor = self.conv1(activate(self.norm1(x)))
        branch = self.conv2(activate(self.norm2(branch.float() if wide else branch)))
        if self.nin_shortcut is None:
            # In place: a convolution's gradient does not read its output.
            return x + branch if wide else branch.add_(x)
        shortcut: Tensor = self.nin_shortcut(branch)
        return shortcut.float() + branch if wide else shortcut.add_(branch)


class Level(nn.Module):
    """Residual blocks of one resolution; on the way up also the convolution after enlarging."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, upsample: bool = False) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResBlock(widths[i], widths[i + 1], groups) for i in range(blocks))
        if upsample:
            self.upsample = nn.ModuleDict({"conv": nn.Conv2d(outputs, outputs, 3, padding=1)})

    def forward(self, x: Tensor, wide: bool = False) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        for block in self.block:
            x = block(x, wide)
        return x

    def enlarge(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        out: Tensor = self.upsample["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Middle(nn.Sequential):
    """Residual blocks at the lowest resolution, named block_1, block_2, ..."""

    def __init__(self, width: int, blocks: int, groups: int) -> None:
        super().__init__(OrderedDict((f"block_{i + 1}", ResBlock(width, width, groups)) for i in range(blocks)))

    def forward(self, x: Tensor, wide: bool = False) -> Tensor:
        """(B, width, H, W) -> the same."""
        for block in self:
            x = block(x, wide)
        return x


class ConvEncoder(nn.Module):
    """Images to features: levels from wide to small, average pooling between them.

    Under autocast the first and last convolution, and norms and sums from a quarter of the image's side on, stay in
    float32: that costs next to nothing, and most ids that bfloat16 would change stay as they are.
    """

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        widths, groups = sizes.widths, sizes.groups
        self.conv_in = nn.Conv2d(sizes.channels, widths[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level(before, after, sizes.blocks, groups)
            for before, after in zip((widths[0], *widths[:-1]), widths, strict=True)
        )
        self.mid = Middle(widths[-1], sizes.middle, groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], sizes.features, 1)
        for part in self.modules():
            if isinstance(part, nn.GroupNorm):
                # No convolution here has a bias: with 0 in here too, a black image would stay 0 from end to end, and
                # every norm would multiply its gradient by 1 / sqrt(eps), beyond float32 after a dozen of them.
                nn.init.normal_(part.bias, std=_SHIFT)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, features, H / f, W / f)."""
        lower = autocast_dtype(images_BCHW.device.type) if self.conv_in.weight.dtype == torch.float32 else None
        with without_autocast(images_BCHW) if lower else contextlib.nullcontext():
            x = self.conv_in(images_BCHW.float() if lower else images_BCHW)
        for index, level in enumerate(self.down):
            wide = lower is not None and index >= _WIDE_FROM
            x = x if index == 0 else F.avg_pool2d(x, 2)
            x = level(x.to(lower) if lower and not wide else x, wide)
        x = activate(self.norm_out(self.mid(x, wide=lower is not None)))
        with without_autocast(x) if lower else contextlib.nullcontext():
            features: Tensor = self.conv_out(x)
        return features


class ConvDecoder(nn.Module):
    """Features to images: the encoder's mirror; `up` is numbered by resolution, the largest 0."""

    def __init__(self, sizes: ConvSizes) -> None:
        super().__init__()
        widths, groups = sizes.widths, sizes.groups
        self.conv_in = nn.Conv2d(sizes.features, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], sizes.middle, groups)
        self.up = nn.ModuleList(
            Level(wide, width, sizes.blocks, groups, upsample=index > 0)
            for index, (wide, width) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], sizes.channels, 3, padding=1)

    def forward(self, features_BWHX: Tensor) -> Tensor:
        """(B, features, H / f, W / f) -> (B, C, H, W)."""
        x = self.mid(self.conv_in(features_BWHX))
        for index in reversed(range(len(self.up))):
            level = self.up[index]
            assert isinstance(level, Level)
            x = level(x)
            if index > 0:
                x = level.enlarge(x)
        images: Tensor = self.conv_out(activate(self.norm_out(x)))
        return images
