"""The VQGAN's convolutional halves, in MaskGIT's layout: average pooling down, nearest x2 up, no attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        branch = self.conv1(F.silu(self.norm1(x)))
        branch = self.conv2(F.silu(self.norm2(branch)))
        shortcut: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(branch)
        out: Tensor = branch + shortcut
        return out


class Level(nn.Module):
    """Residual blocks of one resolution; on the way up also the convolution after enlarging."""

    def __init__(self, inputs: int, outputs: int, blocks: int, groups: int, upsample: bool = False) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResBlock(widths[i], widths[i + 1], groups) for i in range(blocks))
        if upsample:
            self.upsample = nn.ModuleDict({"conv": nn.Conv2d(outputs, outputs, 3, padding=1)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        for block in self.block:
            x = block(x)
        return x

    def enlarge(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        enlarged: Tensor = self.upsample["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return enlarged


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, groups)
        self.block_2 = ResBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        result: Tensor = self.block_2(self.block_1(x))
        return result


class ConvEncoder(nn.Module):
    """Images to features: levels from wide to small, average pooling between them."""

    def __init__(self, channels: int, widths: list[int], blocks: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        inputs = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(
            Level(before, after, blocks, groups) for before, after in zip(inputs, widths, strict=True)
        )
        self.mid = Middle(widths[-1], groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1], eps=EPS)
        self.conv_out = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / f, W / f)."""
        x = self.conv_in(images_BCHW)
        for index, level in enumerate(self.down):
            x = level(x if index == 0 else F.avg_pool2d(x, 2))
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return features


class ConvDecoder(nn.Module):
    """Features to images: the encoder's mirror; `up` is numbered by resolution, the largest 0."""

    def __init__(self, channels: int, widths: list[int], blocks: int, inputs: int, groups: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], groups)
        before = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(wide, width, blocks, groups, upsample=index > 0)
            for index, (wide, width) in enumerate(zip(before, widths, strict=True))
        )
        self.norm_out = nn.GroupNorm(groups, widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, features_BWHX: Tensor) -> Tensor:
        """(B, inputs, H / f, W / f) -> (B, C, H, W)."""
        x = self.mid(self.conv_in(features_BWHX))
        for index in reversed(range(len(self.up))):
            level = self.up[index]
            assert isinstance(level, Level)
            x = level(x)
            if index > 0:
                x = level.enlarge(x)
        images: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return images
