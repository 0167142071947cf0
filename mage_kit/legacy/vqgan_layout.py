"""The tokenizer of MAGE and of MaskGIT's PyTorch form: its names are ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from mage_kit.legacy.layout import Layout, LayoutError, Options, Shapes
from mage_kit.quantizers import Codebook, EMACodebook
from mage_kit.tokenizers import VQGAN

DEFAULT_SIZE = (256, 256)


class VQGANLayout(Layout):
    """168 tensors, under "state_dict"."""

    kind = "vqgan"
    title = "the VQGAN of MAGE (MaskGIT's, in PyTorch)"
    marker = "encoder.down.0.block.0.conv1.weight"
    reasons: ClassVar[Mapping[str, str]] = {r"loss\..*": "training loss: perceptual network and discriminator"}

    def recognises(self, names: set[str]) -> bool:
        """MaskGIT's encoder starts without a bias, and there is no quant_conv."""
        return self.marker in names and not names & {
            "encoder.conv_in.bias",
            "quant_conv.weight",
        }

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, blocks and codes."""
        middle = shapes.count("encoder.mid.block_{}.", first=1)
        sizes = conv_sizes(shapes, options, "encoder.down.{}.", "block", EMACodebook)
        return VQGAN(**sizes, middle_blocks=middle)


def conv_sizes(
    shapes: Shapes, options: Options, level: str, block: str, quantizer: Callable[..., Codebook]
) -> dict[str, Any]:
    """Read the keywords that convolutional tokenizers in PyTorch share.

    Args:
        shapes: Of the file.
        options: What the file does not say.
        level: Pattern of a level's prefix.
        block: Name of the residual blocks in a level.
        quantizer: Makes the codebook, of its number of codes and their width.

    Raises:
        LayoutError: If a tensor is missing that tells a size.
    """
    base, channels, *_ = shapes.of("encoder.conv_in.weight", 4)
    levels = range(shapes.count(level))
    widths = [shapes.of(f"{level.format(number)}{block}.0.conv1.weight", 4)[0] for number in levels]
    codes, width = shapes.of("quantize.embedding.weight", 2)
    return {
        "image_size": options.image_size or DEFAULT_SIZE,
        "channels": channels_of(channels),
        "base_channels": base,
        "multipliers": multipliers_of(widths, base),
        "res_blocks": shapes.count(f"{level.format(0)}{block}.{{}}."),
        "quantizer": quantizer(codes=codes, width=width),
        **({} if options.norm_groups is None else {"norm_groups": options.norm_groups}),
    }


def channels_of(channels: int) -> Any:
    """Return the number of image channels.

    Raises:
        LayoutError: If no image has that many.
    """
    if channels not in (1, 3, 4):
        raise LayoutError(f"encoder.conv_in.weight: {channels} input channels, must be 1, 3 or 4")
    return channels


def multipliers_of(widths: list[int], base: int) -> tuple[int, ...]:
    """Return each level's width as a multiple of the first.

    Raises:
        LayoutError: If one is no whole multiple, or there is none.
    """
    if not widths or any(width % base for width in widths):
        raise LayoutError(f"widths of the levels: {widths}, must be multiples of {base}")
    return tuple(width // base for width in widths)
