"""Several weights in one file: the better ones are read and the rest told, equally good ones asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.legacy import import_checkpoint
from mage_kit.legacy.exposures import exposures
from mage_kit.legacy.foreign import foreign_below
from mage_kit.legacy.renames import invert
from tests import build
from tests.legacy.diffusers_names import named, write
from tests.legacy.files import TAMING, Run, refused

Tensors = dict[str, Tensor]
MARKER = "encoder.down.0.block.0.conv1.weight"
NAMES = 100_000
SECONDS = 3.0


@pytest.fixture
def taming() -> Tensors:
    tensors: Tensors = torch.load(TAMING, weights_only=True)["state_dict"]
    return tensors


def stored(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("student.model", "teacher.model"),
        ("model.encoder_q", "model.encoder_k"),
        ("first", "second.inner"),
        ("ema.a.b", "ema.c.d"),
        ("ema.model", "ema.module"),
    ],
)
def test_equally_good_keys_are_asked_for(first: str, second: str, tmp_path: Path, taming: Tensors) -> None:
    other = {name: tensor + 1 for name, tensor in taming.items()}
    whole: Any = {"epoch": 3}
    for key, tensors in ((first, taming), (second, other)):
        *places, last = key.split(".")
        inner = whole
        for place in places:
            inner = inner.setdefault(place, {})
        inner[last] = tensors
    path = stored(tmp_path / "w.pth", whole)
    words = refused(path, f"under {first}, {second}; choose one", options=None)
    assert "--weights KEY" in words and "weights=KEY" in words
    result = import_checkpoint(path, weights=second)
    assert torch.equal(result.part.get_parameter("quant_conv.bias"), other["quant_conv.bias"].float())
    assert not result.container_notes


@pytest.mark.parametrize(
    ("best", "others"),
    [("ema", ("model",)), ("model", ("state_dict", "first")), ("model", ("model.inner",)), ("", ("teacher",))],
)
def test_the_better_key_is_read_and_the_others_are_told(
    best: str, others: tuple[str, ...], tmp_path: Path, taming: Tensors, run: Run
) -> None:
    raw = {name: tensor * 0.5 for name, tensor in taming.items()}
    whole: Any = {key: dict(raw) for key in others if "." not in key}
    if best:
        whole[best] = dict(taming)
    else:
        whole |= taming
    if "model.inner" in others:
        whole["model"]["inner"] = raw
    path = stored(tmp_path / "both.ckpt", whole)
    where = f"the key '{best}'" if best else "no key"
    line = f"both.ckpt: the weights under {where} are read, not those under {', '.join(others)} (--weights KEY chooses"
    with pytest.warns(FileWarning) as caught:
        tokenizer = mk.load_tokenizer(path, prefix="")
    assert [line in str(warning.message) for warning in caught] == [True]
    assert torch.equal(tokenizer.get_parameter("quant_conv.bias"), taming["quant_conv.bias"].float())
    code, out, error = run("convert", path, "--out", tmp_path / "folder")
    assert code == 0 and " ".join((out + error).split()).count(line) == 1
    (source,) = json.loads((tmp_path / "folder" / "card.json").read_text())["sources"]
    assert (source["weights_under"], source["weights_not_read"]) == (best, list(others))
    code, out, error = run("convert", path, "--out", tmp_path / "other", "--weights", others[0])
    assert code == 0 and "not those under" not in out + error


def test_a_key_with_a_dot_is_no_second_way_to_a_place(tmp_path: Path, taming: Tensors) -> None:
    path = stored(tmp_path / "w.pth", {"a": {"b": taming}, "a.b": taming})
    refused(path, r"holds tensors under 'a\.b' twice", options=None)
    result = import_checkpoint(stored(tmp_path / "one.pth", {"a.b": taming, "epoch": 3}))
    assert result.origin.card["not_weights"] == ["epoch"]


@pytest.mark.parametrize("old", ["query", "key", "value", "proj_attn"])
def test_old_and_new_names_of_one_tensor_are_refused(old: str, tmp_path: Path) -> None:
    tensors = named(build.taming())
    new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}[old]
    name = f"encoder.mid_block.attentions.0.{new}.weight"
    again = name.replace(new, old)
    folder = write(tmp_path / "model", tensors | {again: tensors[name] + 1})
    words = refused(folder, "which are one tensor under the names that diffusers' VQModel has today", options=None)
    assert f"'{again}'" in words and f"'{name}'" in words


def test_new_names_must_differ(tmp_path: Path) -> None:
    assert invert(tmp_path, {"a": "x", "b": "y"}, "here") == {"x": "a", "y": "b"}
    with pytest.raises(mk.MageKitError, match="holds 'a' and 'c', which are one tensor here; remove one"):
        invert(tmp_path, {"a": "x", "b": "y", "c": "x"}, "here")


def hostile(kind: str) -> list[str]:
    return {
        "markers": [f"a{number}.{MARKER}" for number in range(NAMES)],
        "flax markers": [f"a{number}/params/encoder/ResBlock_0/Conv_0/kernel" for number in range(NAMES)],
        "running means": [f"a{number}.decay" for number in range(NAMES)],
        "autoencoders": [f"a{number}.encoder.conv_out.weight" for number in range(NAMES)],
    }[kind]


@pytest.mark.parametrize("kind", ["markers", "flax markers", "running means"])
def test_more_prefixes_than_any_checkpoint_has(kind: str, tmp_path: Path) -> None:
    names = hostile(kind)
    start = time.perf_counter()
    with pytest.raises(mk.MageKitError, match=r"known layouts below 100,000 prefixes .* must be 100 at most"):
        exposures(tmp_path, names)
    assert time.perf_counter() - start < SECONDS


def test_more_autoencoders_than_any_checkpoint_has(tmp_path: Path) -> None:
    shapes = dict.fromkeys(hostile("autoencoders"), (1, 1, 1, 1))
    start = time.perf_counter()
    with pytest.raises(mk.MageKitError, match=r"autoencoders below 100,000 prefixes"):
        foreign_below(tmp_path, shapes)
    assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize("name", [lambda number: f"a{number}.{MARKER}", lambda number: f"a{number}.decay"])
def test_a_file_of_many_prefixes_is_refused_in_a_sentence(name: Callable[[int], str], tmp_path: Path, run: Run) -> None:
    one = torch.ones(1)
    path = stored(tmp_path / "w.ckpt", {"state_dict": {name(number): one for number in range(101)}})
    code, _, error = run("convert", path, "--out", tmp_path / "out")
    assert code == 2 and "below 101 prefixes" in " ".join(error.split()) and error.count("error:") == 1
    few = stored(tmp_path / "few.ckpt", {"state_dict": {name(number): one for number in range(100)}})
    assert "prefixes (the first" not in refused(few, ".", options=None)
