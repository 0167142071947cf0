"""The VQModel of diffusers: taming's network under other names, 1x1 convolutions of attention kept as linear layers."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mage_kit.legacy.forms import SAME, Pointwise
from mage_kit.legacy.layout import Layout, Options, Pair, Shapes, one_to_one
from mage_kit.legacy.taming_layout import attentive_sizes
from mage_kit.tokenizers import TamingVQGAN

_INNER = {  # of a residual block or an attention, ours to theirs
    ".nin_shortcut.": ".conv_shortcut.",
    ".downsample.": ".downsamplers.0.",
    ".upsample.": ".upsamplers.0.",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.15
_OLD_NAME = re.compile(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\..*)")
_OUR_ATTENTION = re.compile(r"(.*\.attn(?:\.\d+|_1)\.)(norm|q|k|v|proj_out)(\..*)")


class DiffusersLayout(Layout):
    """As `save_pretrained` writes it, with config.json beside; the container is a safetensors file."""

    kind = "diffusers"
    title = "diffusers' VQModel"
    marker = "encoder.down_blocks.0.resnets.0.conv1.weight"
    uses = frozenset({"image_size", "norm_groups"})

    def recognises(self, names: set[str]) -> bool:
        """Levels are called down_blocks."""
        return self.marker in names

    def today(self, name: str) -> str:
        """Attention's parts had other names in older files."""
        match = _OLD_NAME.fullmatch(name)
        return name if match is None else f"{match[1]}{_OLD[match[2]]}{match[3]}"

    def build(self, shapes: Shapes, options: Options) -> nn.Module:
        """Read widths, blocks and codes; the groups of GroupNorm are config.json's."""
        sizes = attentive_sizes(shapes, options, "encoder.down_blocks.{}.", "resnets", "attentions", unit=False)
        return TamingVQGAN(**sizes)

    def pairs(self, module: Any) -> list[Pair]:
        """Levels, middle and attention renamed; the decoder's levels are numbered as they run."""
        state = module.state_dict()
        pairs = []
        for pair in one_to_one(state, _levels(len(module.multipliers))):
            match = _OUR_ATTENTION.fullmatch(pair.ours)
            name = pair.theirs
            for ours, theirs in _INNER.items():
                name = name.replace(ours, theirs)
            if match is not None:
                name = f"{name.removesuffix(match[2] + match[3])}{_ATTENTION[match[2]]}{match[3]}"
            matrix = match is not None and state[pair.ours].ndim == 4
            pairs.append(Pair(pair.ours, name, Pointwise() if matrix else SAME))
        return pairs

    def own_settings(self, module: Any) -> dict[str, Any]:
        """What config.json says of such a network."""
        last = len(module.multipliers) - 1
        return {
            "_class_name": "VQModel",
            "in_channels": module.channels,
            "out_channels": module.channels,
            "block_out_channels": [module.base_channels * multiplier for multiplier in module.multipliers],
            "down_block_types": ["DownEncoderBlock2D"] * last + ["AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * last,
            "layers_per_block": module.res_blocks,
            "latent_channels": module.z_channels,
            "num_vq_embeddings": module.spec.codes,
            "vq_embed_dim": module.spec.width,
            "norm_num_groups": module.norm_groups,
            "act_fn": "silu",
            "norm_type": "group",
            "mid_block_add_attention": True,
        }


def _levels(count: int) -> dict[str, str]:
    """Prefixes of ours by diffusers'."""
    rename = {}
    for half, level, theirs in (("encoder", "down", "down_blocks"), ("decoder", "up", "up_blocks")):
        for place, ours in enumerate(("block_1", "block_2")):
            rename[f"{half}.mid.{ours}."] = f"{half}.mid_block.resnets.{place}."
        rename[f"{half}.mid.attn_1."] = f"{half}.mid_block.attentions.0."
        rename[f"{half}.norm_out."] = f"{half}.conv_norm_out."
        for number in range(count):
            ours, place = f"{half}.{level}.{number}.", number if level == "down" else count - 1 - number
            rename[ours] = f"{half}.{theirs}.{place}."
            rename[f"{ours}block."] = f"{half}.{theirs}.{place}.resnets."
            rename[f"{ours}attn."] = f"{half}.{theirs}.{place}.attentions."
    return rename
