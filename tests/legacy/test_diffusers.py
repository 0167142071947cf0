"""diffusers' VQModel is taming's network under other names: tensors and numbers are the same, settings are held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.legacy import Options, import_checkpoint
from tests import build
from tests.legacy.diffusers_names import CONFIG, FILE, named, write
from tests.legacy.files import Run, refused

SIZE = Options(image_size=(16, 16))


@pytest.fixture
def tokenizer() -> mk.CodebookTokenizer:
    """Every tensor another, so that none can take another's place."""
    part = build.taming().eval()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    return part


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As diffusers called attention's parts before version 0.15."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("age", [dict, old_names])
@pytest.mark.parametrize("inner", ["", "vqvae", "vae"])
def test_tensors_and_outputs_are_the_same(
    inner: str, age: Any, tokenizer: mk.CodebookTokenizer, tmp_path: Path, run: Run
) -> None:
    write(tmp_path / "model" / inner, age(named(tokenizer)))
    part = mk.load_tokenizer(tmp_path / "model", image_size=(16, 16))
    assert isinstance(part, mk.TamingVQGAN) and part.norm_groups == 4 and same(part, tokenizer)
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = tokenizer.encode(images)
    assert torch.equal(part.encode(images), ids) and torch.equal(part.decode(ids), tokenizer.decode(ids))
    code, out, error = run("convert", tmp_path / "model", "--out", tmp_path / "ours", "--image-size", 16)
    assert code == 0 and "layout diffusers" in out, error
    assert same(mk.load_tokenizer(tmp_path / "ours"), tokenizer)
    card = json.loads((tmp_path / "ours" / "card.json").read_text())
    assert card["tensors"] == len(tokenizer.state_dict()) and card["unused"] == []


def test_a_file_by_itself_reads_the_settings_beside_it(tokenizer: mk.CodebookTokenizer, tmp_path: Path) -> None:
    write(tmp_path, named(tokenizer))
    assert same(import_checkpoint(tmp_path / FILE, options=SIZE).part, tokenizer)
    save_file({f"vqvae.{name}": tensor for name, tensor in named(tokenizer).items()}, tmp_path / "all.safetensors")
    refused(tmp_path / "all.safetensors", "norm_groups: 32, must divide", options=SIZE)
    groups = Options(image_size=(16, 16), norm_groups=4)
    assert same(import_checkpoint(tmp_path / "all.safetensors", options=groups).part, tokenizer)


def test_shards_and_variants(tokenizer: mk.CodebookTokenizer, tmp_path: Path) -> None:
    tensors = named(tokenizer)
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    half = write(tmp_path / "half", halves, "diffusion_pytorch_model.fp16.safetensors")
    part = import_checkpoint(half, options=SIZE).part
    assert torch.equal(part.get_parameter("quant_conv.weight"), tokenizer.quant_conv.weight.half().float())
    sharded = write(tmp_path / "sharded", tensors)
    (sharded / FILE).rename(sharded / "diffusion_pytorch_model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "diffusion_pytorch_model-00001-of-00001.safetensors")}
    (sharded / f"{FILE}.index.json").write_text(json.dumps(index))
    assert same(import_checkpoint(sharded, options=SIZE).part, tokenizer)
    pickled = write(tmp_path / "pickled", tensors)
    (pickled / FILE).unlink()
    torch.save(tensors, pickled / "diffusion_pytorch_model.bin")
    assert same(import_checkpoint(pickled, options=SIZE).part, tokenizer)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_out_channels", [8, 16, 16]),
        ("layers_per_block", 2),
        ("num_vq_embeddings", 64),
        ("vq_embed_dim", 8),
        ("latent_channels", 4),
        ("norm_num_groups", 3),
        ("norm_num_groups", "four"),
        ("norm_num_groups", True),
        ("in_channels", 3),
        ("out_channels", True),
        ("act_fn", "relu"),
        ("norm_type", "spatial"),
        ("mid_block_add_attention", False),
        ("_class_name", "AutoencoderKL"),
        ("down_block_types", ["DownEncoderBlock2D"] * 3),
        ("up_block_types", ["UpDecoderBlock2D"] * 3),
    ],
)
def test_settings_must_agree_with_the_weights(
    key: str, value: Any, tokenizer: mk.CodebookTokenizer, tmp_path: Path, run: Run
) -> None:
    write(tmp_path / "model", named(tokenizer), **{key: value})
    code, _, error = run("convert", tmp_path / "model", "--out", tmp_path / "out", "--image-size", 16)
    assert code == 2 and error.count("error:") == 1 and "Traceback" not in error and not (tmp_path / "out").exists()
    words = " ".join(error.split())
    assert f"config.json: {key} is {value!r}" in words or "norm_groups: 3, must divide" in words


def test_settings_may_say_less(tokenizer: mk.CodebookTokenizer, tmp_path: Path) -> None:
    least = {key: None for key in CONFIG if key != "norm_num_groups"}
    write(tmp_path, named(tokenizer), **least)
    assert same(import_checkpoint(tmp_path, options=SIZE).part, tokenizer)


def test_a_kl_autoencoder_of_diffusers_is_called_by_name(tokenizer: mk.CodebookTokenizer, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in named(tokenizer).items() if not name.startswith("quantize.")}
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        tensors[name] = torch.cat([tensors[name]] * 2)
    tensors |= {"quant_conv.weight": torch.ones(8, 16, 1, 1), "quant_conv.bias": torch.ones(8)}
    for place in (tmp_path / "alone", tmp_path / "pipeline" / "vae"):
        write(place, tensors, _class_name="AutoencoderKL")
    for place in (tmp_path / "alone", tmp_path / "pipeline"):
        refused(place, "weights of a KL autoencoder: it has no codebook; MAGE needs discrete tokens", options=SIZE)


def test_folders_that_hold_something_else(tokenizer: mk.CodebookTokenizer, tmp_path: Path) -> None:
    tensors = named(tokenizer)
    write(tmp_path / "two" / "vae", tensors)
    write(tmp_path / "two" / "vqvae", tensors)
    assert "vqvae, vae" in refused(tmp_path / "two", "several sets of weights")
    network = {"time_embedding.linear_1.weight": torch.ones(2, 2), "conv_in.weight": torch.ones(2)}
    write(tmp_path / "unet", network, _class_name="UNet2DModel")
    refused(tmp_path / "unet", "none of the known layouts .*config.json calls it 'UNet2DModel'")
    (write(tmp_path / "broken", tensors) / "config.json").write_text("{")
    refused(tmp_path / "broken", "config.json: cannot be read")
    none = write(tmp_path / "none", tensors, "diffusion_pytorch_model.msgpack")
    refused(none, "diffusion_pytorch_model.safetensors is missing")
