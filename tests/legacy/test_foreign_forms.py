"""Weights that no tokenizer here can be are called by their names, wherever they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from tests.legacy.files import TAMING, Run, refused

Tensors = dict[str, Tensor]
KL = "these are weights of a KL autoencoder: it has no codebook; MAGE needs discrete tokens"
GUMBEL = "these are weights of a Gumbel VQGAN"


@pytest.fixture
def taming() -> Tensors:
    tensors: Tensors = torch.load(TAMING, weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}


def kl_form(tensors: Tensors) -> Tensors:
    """Mean and log variance instead of features, no codebook: twice the channels before and after quant_conv."""
    features = len(tensors["encoder.conv_out.bias"])
    width = tensors["post_quant_conv.weight"].shape[1]
    inner = {name: tensor for name, tensor in tensors.items() if not name.startswith("quantize.")}
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        inner[name] = torch.cat([tensors[name]] * 2)
    return inner | {
        "quant_conv.weight": torch.ones(2 * width, 2 * features, 1, 1),
        "quant_conv.bias": torch.ones(2 * width),
    }


def gumbel_form(tensors: Tensors) -> Tensors:
    """taming's GumbelQuantize: a projection to as many logits as codes, and the codes."""
    codes, width = tensors["quantize.embedding.weight"].shape
    inner = {name: tensor for name, tensor in tensors.items() if not name.startswith("quantize.")}
    return inner | {
        "quantize.proj.weight": torch.ones(codes, width, 1, 1),
        "quantize.proj.bias": torch.ones(codes),
        "quantize.embed.weight": torch.ones(codes, width),
    }


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae.", "model._orig_mod."])
@pytest.mark.parametrize(("change", "words"), [(kl_form, KL), (gumbel_form, GUMBEL)])
def test_called_by_name(prefix: str, change: Any, words: str, tmp_path: Path, taming: Tensors, run: Run) -> None:
    path = tmp_path / "weights.ckpt"
    others = {"model.diffusion_model.out.0.weight": torch.ones(3)}
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in change(taming).items()} | others}, path)
    code, _, error = run("convert", path, "--out", tmp_path / "out")
    text = " ".join(error.split())
    assert code == 2 and words in text and not (tmp_path / "out").exists()
    assert (prefix.replace("_orig_mod.", "") in text) and "missing" not in text and "Error" not in error
    with pytest.raises(mk.MageKitError, match=words):
        mk.load_tokenizer(path)


def test_a_kl_autoencoder_without_convolutions_around_its_latents(tmp_path: Path, taming: Tensors) -> None:
    """As newer ones are: nothing of it looks like a known layout, and it has its name all the same."""
    inner = {name: tensor for name, tensor in kl_form(taming).items() if "quant_conv" not in name}
    torch.save({"state_dict": {f"vae.{name}": tensor for name, tensor in inner.items()}}, tmp_path / "w.ckpt")
    assert "(below the prefix 'vae.')" in refused(tmp_path / "w.ckpt", KL, options=None)


def test_attention_at_other_levels_is_said_in_a_sentence(tmp_path: Path, taming: Tensors) -> None:
    """Latent diffusion's f4 has none at the lowest level: another network, whatever its names."""
    bare = {name: tensor for name, tensor in taming.items() if ".attn." not in name}
    torch.save({"state_dict": bare}, tmp_path / "f4.ckpt")
    text = refused(tmp_path / "f4.ckpt", "attention: no level has it, must be the lowest level", options=None)
    assert len(text.splitlines()) == 2, "no list of missing tensors"
    more = {name.replace("down.4.attn", "down.0.attn"): tensor for name, tensor in taming.items()}
    torch.save({"state_dict": taming | more}, tmp_path / "more.ckpt")
    refused(tmp_path / "more.ckpt", r"attention: encoder.down.0., encoder.down.4. has it", options=None)


def test_a_damaged_tokenizer_keeps_its_own_error(tmp_path: Path, taming: Tensors) -> None:
    del taming["quantize.embedding.weight"]
    torch.save({"state_dict": taming}, tmp_path / "w.ckpt")
    refused(tmp_path / "w.ckpt", "quantize.embedding.weight: missing", options=None)
