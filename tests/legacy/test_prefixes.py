"""Weights below a prefix: one that exposes a known layout is taken and told, two are named, wrappers leave no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.legacy import import_checkpoint
from mage_kit.legacy.flat_names import dotted
from tests import build
from tests.legacy.files import HEADS, MINI, OPTIONS, TAMING, Run, refused, same_tokens
from tests.parity.recording import DATA

Tensors = dict[str, Tensor]
NETWORK = {f"model.diffusion_model.input_blocks.{number}.0.weight": torch.ones(2) for number in range(3)}


@pytest.fixture
def taming() -> Tensors:
    tensors: Tensors = torch.load(TAMING, weights_only=True)["state_dict"]
    return tensors


def below(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def flat(prefix: str, tensors: Tensors) -> Tensors:
    """As Lightning's LitEma writes them."""
    counters = {f"{prefix}decay": torch.tensor(0.9999), f"{prefix}num_updates": torch.tensor(7)}
    return counters | {prefix + name.replace(".", ""): tensor for name, tensor in tensors.items()}


def stored(path: Path, tensors: Any) -> Path:
    torch.save(tensors, path)
    return path


def same(part: Any, wanted: Any) -> bool:
    first, second = part.state_dict(), wanted.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("prefix", "others"),
    [
        ("first_stage_model.", NETWORK),
        ("vae.", {"scale_factor": torch.ones(())}),
        ("ema_model.", {"initted": torch.ones(1), "step": torch.ones(1)}),
        ("model.", {}),
        ("a.b.c.", {}),
    ],
)
def test_the_only_prefix_is_taken_and_told(
    prefix: str, others: Tensors, tmp_path: Path, taming: Tensors, run: Run
) -> None:
    path = stored(tmp_path / "weights.ckpt", {"state_dict": below(prefix, taming) | others})
    code, out, error = run("convert", path, "--out", tmp_path / "folder", "--image-size", "64")
    assert code == 0, error
    (line,) = (line for line in (out + error).splitlines() if "below the prefix" in line)
    assert f"from below the prefix '{prefix}'" in line and "taming" in line
    count = f"{len(others)} other tensor{'s are' if len(others) > 1 else ' is'} not read"
    assert count in line if others else "other" not in line
    assert same(mk.load_tokenizer(tmp_path / "folder"), import_checkpoint(TAMING).part)
    (source,) = json.loads((tmp_path / "folder" / "card.json").read_text())["sources"]
    assert source["prefix"] == prefix and source["outside_prefix"] == sorted(others)


def test_a_load_warns_unless_the_prefix_is_given(tmp_path: Path, taming: Tensors) -> None:
    path = stored(tmp_path / "weights.ckpt", {"state_dict": below("first_stage_model.", taming) | NETWORK})
    with pytest.warns(FileWarning, match="prefix 'first_stage_model.'; 3 other tensors are not read"):
        tokenizer = mk.load_tokenizer(path)
    assert same(tokenizer, import_checkpoint(TAMING).part)
    assert same(mk.load_tokenizer(path, prefix="first_stage_model."), tokenizer)


def wrapped(name: str) -> str:
    """A name with wrappers' words before, in the middle, and in parts of blocks."""
    return "module._orig_mod." + name.replace("blocks.", "blocks._orig_mod.").replace("attn.", "attn.module.")


@pytest.mark.parametrize("rename", [wrapped, lambda name: f"_orig_mod.{name}", lambda name: f"model._orig_mod.{name}"])
@pytest.mark.parametrize("key", ["model", "state_dict", "params"])
def test_words_of_wrappers(key: str, rename: Callable[[str], str], tmp_path: Path, weights: Tensors) -> None:
    path = stored(tmp_path / "w.pth", {key: {rename(name): tensor for name, tensor in weights.items()}})
    result = import_checkpoint(path, options=OPTIONS)
    same_tokens(result.part)
    assert same(result.part, import_checkpoint(MINI, options=OPTIONS).part)
    assert [source["prefix"] for source in result.origin.card["sources"]] == ["model." * ("model" in rename("x"))]


def test_two_names_of_one_tensor_are_refused(tmp_path: Path, weights: Tensors) -> None:
    path = stored(tmp_path / "w.pth", {"model": weights | {"module.norm.bias": torch.ones(64)}})
    assert "'norm.bias' and 'module.norm.bias'" in refused(path, "one tensor once the words of wrappers")


def test_several_prefixes_are_named_and_one_is_chosen(tmp_path: Path, taming: Tensors, run: Run) -> None:
    other = {name: tensor + 1 for name, tensor in taming.items()}
    path = stored(tmp_path / "both.ckpt", {"state_dict": below("vae.", taming) | below("ema_model.", other)})
    code, _, error = run("convert", path, "--out", tmp_path / "out")
    assert code == 2 and not (tmp_path / "out").exists() and error.count("error:") == 1
    words = " ".join(error.split())
    assert "'vae.' (" in words and "'ema_model.' (" in words and "--prefix" in words and "prefix=" in words
    assert run("convert", path, "--out", tmp_path / "out", "--prefix", "ema_model.")[0] == 0
    assert same(import_checkpoint(path, prefix="vae.").part, import_checkpoint(TAMING).part)
    raised = import_checkpoint(path, prefix="ema_model.").part
    assert torch.equal(raised.get_parameter("quant_conv.bias"), other["quant_conv.bias"].float())
    near = refused(path, "prefix: 'ema_modle.', did you mean 'ema_model.'", options=None, prefix="ema_modle.")
    assert "no tensor of" in near and "'vae.' (" in near


def test_running_means_of_lightning(tmp_path: Path, taming: Tensors) -> None:
    """Names without dots, beside the weights or alone; both are named, and each is chosen by its prefix."""
    mean = {name: tensor * 0.5 for name, tensor in taming.items() if not name.startswith("loss.")}
    alone = stored(tmp_path / "alone.ckpt", {"state_dict": flat("model_ema.", mean)})
    result = import_checkpoint(alone)
    assert torch.equal(result.part.get_parameter("quant_conv.bias"), mean["quant_conv.bias"].float())
    assert "prefix 'model_ema.'; 2 other tensors are not read" in result.prefix_notes[0]
    assert same(import_checkpoint(stored(tmp_path / "top.ckpt", {"model_ema": flat("", mean)})).part, result.part)
    both = stored(tmp_path / "both.ckpt", {"state_dict": taming | flat("model_ema.", mean)})
    assert "'' (" in refused(both, "several prefixes.*'model_ema.' .*choose one", options=None)
    assert same(import_checkpoint(both, prefix="model_ema.").part, result.part)
    assert same(import_checkpoint(both, prefix="").part, import_checkpoint(TAMING).part)


def test_dots_are_put_back() -> None:
    names = {"loss.discriminatormain0weight"}
    for kind in ("taming", "llamagen"):
        listed = json.loads((DATA / kind / "published_shapes.json").read_text())
        names |= {name for shapes in listed.values() for name in shapes if "codebook_used" not in name}
    names = {name for name in names if not name.startswith("loss.") or name.count(".") == 1}
    names |= build.vqgan().state_dict().keys()
    assert len(names) > 600
    assert {name: dotted(name.replace(".", "")) for name in names} == {name: name for name in names}
    assert dotted("diffusion_modelinput_blocks00weight") is None and dotted("") is None


@pytest.mark.parametrize("keys", [("params",), ("model", "state_dict"), ("network",), ("a", "b", "c")])
def test_keys_of_keys(keys: tuple[str, ...], tmp_path: Path, taming: Tensors) -> None:
    whole: Any = taming
    for key in reversed(keys):
        whole = {key: whole, "epoch": 3}
    result = import_checkpoint(stored(tmp_path / "w.pth", whole))
    assert result.origin.card["sources"][0]["weights_under"] == ".".join(keys)
    assert same(result.part, import_checkpoint(TAMING).part)


def test_a_model_below_a_prefix_keeps_its_tokenizer(tmp_path: Path, weights: Tensors, run: Run) -> None:
    path = stored(tmp_path / "w.pth", {"model": below("student.", weights)})
    code, out, error = run("convert", path, "--out", tmp_path / "mage", *HEADS)
    assert code == 0 and "prefix 'student.'" in out + error
    same_tokens(mk.load(tmp_path / "mage"))
    assert same(mk.load_tokenizer(path, prefix="student."), mk.load_tokenizer(MINI))
    assert same(mk.load_tokenizer(path, prefix="student.vqgan."), mk.load_tokenizer(MINI))
