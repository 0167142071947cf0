"""Weights in several safetensors files: read as one, or refused with the file or tensor named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mage_kit as mk
from mage_kit.legacy import import_checkpoint
from tests.legacy.files import HEADS, MINI, OPTIONS, Run, refused, same_tokens

INDEX = "model.safetensors.index.json"
NAMES = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    place = tmp_path / "sharded"
    place.mkdir()
    names = sorted(weights)
    parts = {shard: names[start::3] for start, shard in enumerate(NAMES)}
    for shard, own in parts.items():
        save_file({name: weights[name] for name in own}, place / shard)
    write_index(place, {name: shard for shard, own in parts.items() for name in own})
    return place


def write_index(place: Path, places: Any) -> None:
    (place / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))


def read_index(place: Path) -> dict[str, str]:
    places: dict[str, str] = json.loads((place / INDEX).read_text())["weight_map"]
    return places


def test_folder_and_index_are_read_as_one_file(folder: Path, tmp_path: Path, run: Run) -> None:
    whole = import_checkpoint(MINI, options=OPTIONS).part.state_dict()
    for place in (folder, folder / INDEX):
        part = import_checkpoint(place, options=OPTIONS).part
        same_tokens(part)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in part.state_dict().items())
        assert isinstance(mk.load(place, encoder_heads=4, decoder_heads=4), mk.Mage)
        assert isinstance(mk.load_tokenizer(place), mk.VQGAN)
    assert run("convert", folder, "--out", tmp_path / "mage", *HEADS)[0] == 0
    sources = json.loads((tmp_path / "mage" / "card.json").read_text())["sources"]
    assert [source["file"] for source in sources] == [INDEX, *NAMES]
    assert len({source["sha256"] for source in sources}) == 4


def absent_shard(place: Path) -> str:
    (place / NAMES[1]).unlink()
    return f"there is no file {NAMES[1]}"


def extra_shard(place: Path) -> str:
    save_file({"x": torch.ones(1)}, place / "model-00004-of-00003.safetensors")
    return "not named by the index lies beside it model-00004-of-00003.safetensors"


def absent_tensor(place: Path) -> str:
    write_index(place, read_index(place) | {"blocks.9.x": NAMES[0]})
    return f"{NAMES[0]} lacks blocks.9.x"


def unnamed_tensor(place: Path) -> str:
    places = read_index(place)
    shard = places.pop("norm.bias")
    write_index(place, places)
    return f"{shard} holds what the index does not name: norm.bias"


def tensor_twice(place: Path) -> str:
    other = next(shard for shard in NAMES if shard != read_index(place)["norm.bias"])
    save_file(load_file(place / other) | {"norm.bias": torch.ones(64)}, place / other)
    return f"{other} holds what the index has elsewhere: norm.bias"


def key_twice(place: Path) -> str:
    text = (place / INDEX).read_text()
    (place / INDEX).write_text(text.replace('"norm.bias"', '"norm.weight"'))
    return "norm.weight"


def outside(name: str) -> Callable[[Path], str]:
    def change(place: Path) -> str:
        target = place.parent / "outside.safetensors"
        (place / NAMES[0]).rename(target)
        places = read_index(place)
        written = name.replace("HERE", str(place.parent))
        write_index(place, {key: written if shard == NAMES[0] else shard for key, shard in places.items()})
        return "files must lie beside it and end in .safetensors, not"

    return change


def no_map(place: Path) -> str:
    (place / INDEX).write_text("[1, 2]")
    return "must hold 'weight_map'"


def no_json(place: Path) -> str:
    (place / INDEX).write_text('{"weight_map": {')
    return "cannot be read .*not JSON"


def damaged(place: Path) -> str:
    (place / NAMES[2]).write_bytes((place / NAMES[2]).read_bytes()[:-50])
    return f"{NAMES[2]}: cannot be read"


FAULTS: dict[str, Callable[[Path], str]] = {
    change.__name__: change
    for change in (
        absent_shard, extra_shard, absent_tensor, unnamed_tensor, tensor_twice, key_twice, no_map, no_json, damaged
    )
} | {
    name: outside(name)
    for name in ("../outside.safetensors", "HERE/outside.safetensors", "a\\b.safetensors", ".a.safetensors", "x.bin")
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named(fault: str, folder: Path, tmp_path: Path, run: Run) -> None:
    words = FAULTS[fault](folder)
    refused(folder, words)
    code, _, error = run("convert", folder, "--out", tmp_path / "out", *HEADS)
    assert code == 2 and error.count("error:") == 1 and "Traceback" not in error and not (tmp_path / "out").exists()


def test_several_indices_and_none(folder: Path, tmp_path: Path) -> None:
    (folder / "other.safetensors.index.json").write_text((folder / INDEX).read_text())
    assert "other.safetensors.index.json" in refused(folder, "several sets of weights")
    same_tokens(import_checkpoint(folder / INDEX, options=OPTIONS).part)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is a folder without config.json")
    with pytest.raises(mk.MageKitError, match=r"holds no recipe.json"):
        mk.load(tmp_path / "empty")
