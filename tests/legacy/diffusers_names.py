"""diffusers' names of a VQModel with three levels and one residual block each, written down by hand.

From the modules of diffusers' Encoder and Decoder (down_blocks, mid_block, up_blocks), not from the importer's rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import mage_kit as mk
from mage_kit.base.files import write_json

FILE = "diffusion_pytorch_model.safetensors"
RESIDUAL = ("norm1", "conv1", "norm2", "conv2")
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
BLOCKS = {
    "encoder.down.0.block.0": "encoder.down_blocks.0.resnets.0",
    "encoder.down.1.block.0": "encoder.down_blocks.1.resnets.0",
    "encoder.down.2.block.0": "encoder.down_blocks.2.resnets.0",
    "encoder.mid.block_1": "encoder.mid_block.resnets.0",
    "encoder.mid.block_2": "encoder.mid_block.resnets.1",
    "decoder.mid.block_1": "decoder.mid_block.resnets.0",
    "decoder.mid.block_2": "decoder.mid_block.resnets.1",
    "decoder.up.2.block.0": "decoder.up_blocks.0.resnets.0",
    "decoder.up.2.block.1": "decoder.up_blocks.0.resnets.1",
    "decoder.up.1.block.0": "decoder.up_blocks.1.resnets.0",
    "decoder.up.1.block.1": "decoder.up_blocks.1.resnets.1",
    "decoder.up.0.block.0": "decoder.up_blocks.2.resnets.0",
    "decoder.up.0.block.1": "decoder.up_blocks.2.resnets.1",
}
ATTENTIONS = {
    "encoder.down.2.attn.0": "encoder.down_blocks.2.attentions.0",
    "encoder.mid.attn_1": "encoder.mid_block.attentions.0",
    "decoder.mid.attn_1": "decoder.mid_block.attentions.0",
    "decoder.up.2.attn.0": "decoder.up_blocks.0.attentions.0",
    "decoder.up.2.attn.1": "decoder.up_blocks.0.attentions.1",
}
SINGLE = {
    "encoder.conv_in": "encoder.conv_in",
    "encoder.down.0.downsample.conv": "encoder.down_blocks.0.downsamplers.0.conv",
    "encoder.down.1.downsample.conv": "encoder.down_blocks.1.downsamplers.0.conv",
    "encoder.down.2.block.0.nin_shortcut": "encoder.down_blocks.2.resnets.0.conv_shortcut",
    "encoder.norm_out": "encoder.conv_norm_out",
    "encoder.conv_out": "encoder.conv_out",
    "quant_conv": "quant_conv",
    "post_quant_conv": "post_quant_conv",
    "decoder.conv_in": "decoder.conv_in",
    "decoder.up.2.upsample.conv": "decoder.up_blocks.0.upsamplers.0.conv",
    "decoder.up.1.block.0.nin_shortcut": "decoder.up_blocks.1.resnets.0.conv_shortcut",
    "decoder.up.1.upsample.conv": "decoder.up_blocks.1.upsamplers.0.conv",
    "decoder.norm_out": "decoder.conv_norm_out",
    "decoder.conv_out": "decoder.conv_out",
}
CONFIG: dict[str, Any] = {
    "_class_name": "VQModel",
    "_diffusers_version": "0.31.0",
    "act_fn": "silu",
    "block_out_channels": [8, 8, 16],
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "in_channels": 1,
    "latent_channels": 8,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "num_vq_embeddings": 32,
    "out_channels": 1,
    "sample_size": 16,
    "scaling_factor": 0.18215,
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
    "vq_embed_dim": 4,
}


def named(tokenizer: mk.CodebookTokenizer) -> dict[str, Tensor]:
    """The tensors of `build.taming()` as diffusers stores them: attention's 1x1 convolutions as matrices."""
    modules = dict(SINGLE)
    modules |= {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in BLOCKS.items() for part in RESIDUAL}
    attentions = {f"{a}.{part}": f"{b}.{name}" for a, b in ATTENTIONS.items() for part, name in ATTENTION.items()}
    state = tokenizer.state_dict()
    tensors = {"quantize.embedding.weight": state["quantize.embedding.weight"]}
    for ours, theirs in (modules | attentions).items():
        for leaf in ("weight", "bias"):
            tensor = state[f"{ours}.{leaf}"]
            matrix = ours in attentions and leaf == "weight" and not ours.endswith(".norm")
            tensors[f"{theirs}.{leaf}"] = tensor.squeeze(-1).squeeze(-1) if matrix else tensor
    assert len(tensors) == len(state)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def write(place: Path, tensors: dict[str, Tensor], name: str = FILE, **changes: Any) -> Path:
    """A folder as `save_pretrained` leaves it; None removes a key."""
    place.mkdir(parents=True, exist_ok=True)
    save_file(tensors, place / name)
    settings = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    write_json(place / "config.json", settings)
    return place
