"""Folders with weights: whatever is not what was written is refused, or called unverified."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mage_kit as mk
from mage_kit.base.manifest import MANIFEST_FILE, FileWarning
from tests import build
from tests.base.test_manifest import flip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.save(build.mage(), tmp_path_factory.mktemp("stored") / "model")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.save_tokenizer(build.vqgan(), tmp_path_factory.mktemp("stored") / "tokenizer")


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.json", MANIFEST_FILE])
def test_no_flipped_bit_of_a_model_is_taken(folder: Path, tmp_path: Path, name: str) -> None:
    _flips(folder, tmp_path / "copy", name, mk.load)


@pytest.mark.parametrize("name", ["tokenizer.safetensors", "tokenizer.json", MANIFEST_FILE])
def test_no_flipped_bit_of_a_tokenizer_is_taken(tokenizer: Path, tmp_path: Path, name: str) -> None:
    _flips(tokenizer, tmp_path / "copy", name, mk.load_tokenizer)


def _flips(folder: Path, copy: Path, name: str, load: Callable[[Path], torch.nn.Module]) -> None:
    shutil.copytree(folder, copy)
    size, draw = 8 * (copy / name).stat().st_size, random.Random(0)
    for bit in [0, size - 9, *(draw.randrange(size) for _ in range(15))]:
        flip(copy / name, bit)
        if name != MANIFEST_FILE or _reads_otherwise(copy / name, folder / name):
            with pytest.raises(mk.MageKitError, match=r"is not what was written|manifest\.json: damaged"):
                load(copy)
        shutil.copy(folder / name, copy / name)
    load(copy)


def _reads_otherwise(one: Path, other: Path) -> bool:
    try:
        return bool(json.loads(one.read_text()) != json.loads(other.read_text()))
    except ValueError:
        return True


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"heads": 4', '"heads": 8'),
        ('"norm_groups": 4', '"norm_groups": 8'),
        ('"replace_seen": true', '"replace_seen": false'),
    ],
)
def test_a_recipe_is_bound_to_its_weights(folder: Path, tmp_path: Path, old: str, new: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    text = (copy / "recipe.json").read_text()
    assert old in text
    (copy / "recipe.json").write_text(text.replace(old, new))
    rule = r"recipe\.json: 1 problem\n.*is not what was written .*changed by hand; remove manifest\.json to go on"
    with pytest.raises(mk.RecipeError, match=rule):
        mk.load(copy)


def test_without_a_manifest_it_is_called_unverified(folder: Path, tokenizer: Path, tmp_path: Path) -> None:
    copy, other = shutil.copytree(folder, tmp_path / "copy"), shutil.copytree(tokenizer, tmp_path / "other")
    for each in (copy, other):
        (each / MANIFEST_FILE).unlink()
    with pytest.warns(FileWarning, match=r"copy: unverified, no manifest\.json there lists recipe\.json, model\.safet"):
        mk.load(copy)
    with pytest.warns(FileWarning, match=r"other: unverified, .* lists tokenizer\.json, tokenizer\.safetensors"):
        mk.load_tokenizer(other)


def unlisted(folder: Path, copy: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str) -> Path:
    """A copy without a manifest, one of its tensors changed."""
    shutil.copytree(folder, copy)
    (copy / MANIFEST_FILE).unlink()
    tensors = load_file(copy / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, copy / "model.safetensors")
    return copy


def test_numbers_of_another_type(folder: Path, tmp_path: Path) -> None:
    name = "encoder.norm.weight"
    whole = unlisted(folder, tmp_path / "whole", lambda tensor: tensor.to(torch.int32), name)
    with pytest.raises(mk.MageKitError, match=r"encoder\.norm\.weight: int32, must be float32"):
        mk.load(whole)
    wrong = unlisted(folder, tmp_path / "wrong", lambda tensor: tensor / 0, name)
    with pytest.raises(mk.MageKitError, match=r"encoder\.norm\.weight: holds numbers that are not finite"):
        mk.load(wrong)
    half = unlisted(folder, tmp_path / "half", lambda tensor: tensor.half(), name)
    with pytest.warns(FileWarning) as warnings:
        mk.load(half)
    words = [str(warning.message) for warning in warnings]
    assert any("1 tensors are stored in float16, and taken into the model's own type" in text for text in words)


def test_an_overwritten_folder_is_listed_anew(tmp_path: Path) -> None:
    place = tmp_path / "model"
    mk.save(build.mage(), place)
    mk.save(build.mage(seed=1), place, overwrite=True)
    assert torch.equal(mk.load(place).encoder.norm.weight, build.mage(seed=1).encoder.norm.weight)
