"""MaskGIT's tokenizer as google-research/maskgit keeps it in flax: the network of `vqgan`, numbered as it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from mage_kit.legacy.forms import SAME, Kernel
from mage_kit.legacy.layout import Layout, LayoutError, Options, Pair, Shapes
from mage_kit.legacy.vqgan_layout import DEFAULT_SIZE, channels_of, multipliers_of
from mage_kit.quantizers import EMACodebook
from mage_kit.tokenizers import VQGAN

_ROOT = "params/"


class MaskGITLayout(Layout):
    """168 arrays; becomes an ordinary `vqgan`."""

    kind = "maskgit_jax"
    title = "MaskGIT's JAX tokenizer (flax msgpack)"
    marker = "params/encoder/ResBlock_0/Conv_0/kernel"

    def recognises(self, names: set[str]) -> bool:
        """Flax's names."""
        return self.marker in names

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, blocks and codes: residual blocks are numbered through, levels follow from the decoder."""
        levels = shapes.count("params/decoder/Conv_{}/") - 1
        blocks = shapes.count("params/encoder/ResBlock_{}/")
        if levels < 1 or blocks % (levels + 1):
            raise LayoutError(
                f"params/encoder: {blocks} residual blocks for {levels} levels, must be as many in each and after them"
            )
        each = blocks // (levels + 1)
        channels, base = shapes.of("params/encoder/Conv_0/kernel", 4)[2:]
        widths = [shapes.of(f"params/encoder/ResBlock_{level * each}/Conv_0/kernel", 4)[3] for level in range(levels)]
        codes, width = shapes.of("params/quantizer/codebook", 2)
        return VQGAN(
            image_size=options.image_size or DEFAULT_SIZE,
            channels=channels_of(channels),
            base_channels=base,
            multipliers=multipliers_of(widths, base),
            res_blocks=each,
            middle_blocks=each,
            quantizer=EMACodebook(codes=codes, width=width),
        )

    def pairs(self, module: Any) -> list[Pair]:
        """Follow encoder and decoder in the order of running."""
        levels, each, middle = len(module.multipliers), module.res_blocks, module.middle_blocks
        mid = [f"mid.block_{number + 1}" for number in range(middle)]
        down = [f"down.{level}.block.{number}" for level in range(levels) for number in range(each)]
        up = [f"up.{level}.block.{number}" for level in reversed(range(levels)) for number in range(each)]
        enlarge = [f"up.{level}.upsample.conv" for level in reversed(range(1, levels))]
        parts = {
            "encoder": (down + mid, ["conv_in", "conv_out"]),
            "decoder": (mid + up, ["conv_in", *enlarge, "conv_out"]),
        }
        state = module.state_dict()
        pairs = [Pair("quantize.embedding.weight", _ROOT + "quantizer/codebook")]
        for half, (blocks, convolutions) in parts.items():
            for ours, theirs in _modules(blocks, convolutions):
                for name, flax in (("weight", None), ("bias", "bias")):
                    full = f"{half}.{ours}.{name}"
                    if full in state:
                        kernel = state[full].ndim == 4
                        leaf = flax or ("kernel" if kernel else "scale")
                        pairs.append(Pair(full, f"{_ROOT}{half}/{theirs}/{leaf}", Kernel() if kernel else SAME))
        return pairs


def _modules(blocks: list[str], convolutions: list[str]) -> Iterator[tuple[str, str]]:
    """Our module's name and flax's, of all that have parameters in one half."""
    inner = {
        "norm1": "GroupNorm_0",
        "conv1": "Conv_0",
        "norm2": "GroupNorm_1",
        "conv2": "Conv_1",
        "nin_shortcut": "Conv_2",
    }
    for number, block in enumerate(blocks):
        for ours, theirs in inner.items():
            yield f"{block}.{ours}", f"ResBlock_{number}/{theirs}"
    for number, convolution in enumerate(convolutions):
        yield convolution, f"Conv_{number}"
    yield "norm_out", "GroupNorm_0"
