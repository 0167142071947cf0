"""The other public tokenizers against their recordings; tolerances are the recordings' own (absolute differences)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mage_kit as mk
from mage_kit.legacy import Options, import_checkpoint
from tests.parity.recording import DATA

KINDS = {"taming": mk.TamingVQGAN, "llamagen": mk.LlamaGenVQ, "maskgit_jax": mk.VQGAN}


def read(kind: str) -> tuple[dict[str, Any], dict[str, Tensor], mk.CodebookTokenizer]:
    folder = DATA / kind
    expected = json.loads((folder / "expected.json").read_text())
    size = expected["config"]["image_size"]
    imported = import_checkpoint(folder / expected["checkpoint_file"], options=Options(image_size=(size, size)))
    assert isinstance(imported.part, KINDS[kind])
    return expected, load_file(folder / "expected.safetensors"), imported.part


def largest(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_against_the_recording(kind: str) -> None:
    expected, tensors, tokenizer = read(kind)
    images, tolerance = tensors["images_uint8"].float() / 255, expected["tolerance"]
    assert largest(tokenizer.feature_map(images), tensors["encoder_features"]) < tolerance["encoder_features"]
    assert torch.equal(tokenizer.encode(images), tensors["token_ids"])
    picture = tokenizer.decode(tensors["token_ids"][:1])
    low, high = expected["input"]["range"]
    raw = picture * (high - low) + low  # ours are in [0, 1] whatever the network's range
    assert largest(raw, tensors["reconstruction"]) < tolerance["reconstruction"]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_read_from_the_shapes(kind: str) -> None:
    expected, _, tokenizer = read(kind)
    config = expected["config"]
    names = {"channel_multipliers": "multipliers", "groups": "norm_groups"}
    names |= {"codebook_size": "codes", "codebook_dim": "width"}
    for name, value in config.items():
        holder = tokenizer.quantize if name.startswith("codebook_") else tokenizer
        held = getattr(holder, names.get(name, name), None)
        if name not in ("attention_resolutions", "norm_epsilon", "codebook_l2_norm", "activation", "conv_downsample"):
            assert held in (value, [value] * 2) or list(held) == value or list(held) == [value] * 2, name


def test_llamagen_compares_and_decodes_codes_at_unit_length() -> None:
    """The recording holds both sides of the quantiser; stored rows are not of unit length."""
    _, tensors, tokenizer = read("llamagen")
    features = tokenizer.features(tensors["images_uint8"].float() / 255)
    shape = tensors["normalised_features"].shape
    ours = tokenizer.quantize.prepare(features).transpose(1, 2).reshape(shape)
    assert largest(ours, tensors["normalised_features"]) < 5e-5
    codes = tokenizer.quantize.lookup(tensors["token_ids"]).transpose(1, 2).reshape(shape)
    assert largest(codes, tensors["quantised_features"]) < 1e-6
    assert not torch.allclose(tokenizer.quantize.embedding.weight.norm(dim=1), torch.ones(1), atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_folder(kind: str, tmp_path: Path) -> None:
    """Saved, loaded, and used with the same tokens."""
    _, tensors, tokenizer = read(kind)
    mk.save_tokenizer(tokenizer, tmp_path / "tokenizer")
    again = mk.load_tokenizer(tmp_path / "tokenizer")
    assert type(again) is type(tokenizer)
    assert torch.equal(again.encode(tensors["images_uint8"].float() / 255), tensors["token_ids"])
