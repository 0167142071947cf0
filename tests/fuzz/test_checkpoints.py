"""Published checkpoints, changed by chance in names, shapes or bytes: refused in words, or the weights they hold."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.base.progress import Reporter
from tests import build
from tests.fuzz.checkpoint_changes import CHANGES, Tensors, is_plain, shift
from tests.fuzz.judge import check_words, outcome
from tests.fuzz.mutations import mutate_bytes, mutate_json
from tests.legacy.diffusers_names import CONFIG, named
from tests.legacy.files import MINI, TAMING

FEW, MANY = 60, 500
FORMATS = ("zip", "zip", "old", "safetensors", "shards")
KEYS = ("", "model", "state_dict", "ema", "teacher.model", "a.b.c", "x.y")
STEM = "diffusion_pytorch_model"
Originals = dict[str, tuple[Tensors, Tensors]]


@pytest.fixture(scope="module")
def originals() -> Originals:
    """Published tensors and the state of the tokenizer that they are, by form."""
    taming: Tensors = torch.load(TAMING, weights_only=True)["state_dict"]
    mage: Tensors = torch.load(MINI, weights_only=True)["model"]
    tokenizer = build.taming()
    return {
        "taming": (taming, mk.load_tokenizer(TAMING).state_dict()),
        "mage": (mage, mk.load_tokenizer(MINI).state_dict()),
        "diffusers": (named(tokenizer), tokenizer.state_dict()),
    }


def below(key: str, tensors: Tensors) -> dict[str, Any]:
    """Keys of keys that lead to tensors."""
    whole: dict[str, Any] = tensors
    for word in reversed(key.split(".") if key else []):
        whole = {word: whole, "epoch": 3}
    return whole


def write(place: Path, form: str, kind: str, tensors: Tensors, draw: random.Random) -> tuple[Path, bool]:
    """Store tensors, beside diffusers' settings where they are its own.

    Returns:
        What is read, and whether other weights stand beside them below another key.
    """
    stem = STEM if form == "diffusers" else "w"
    if form == "diffusers":
        (place / "config.json").write_text(json.dumps(mutate_json(CONFIG, draw) if draw.random() < 0.2 else CONFIG))
    if kind in ("zip", "old"):
        key, other = draw.choice(KEYS), draw.choice(KEYS[1:])
        whole = below(key, dict(tensors))
        has_rival = draw.random() < 0.5 and not {key.split(".")[0]} & {other.split(".")[0]}
        if has_rival:
            whole |= below(other, shift(tensors))
        file = place / f"{stem}.bin"
        torch.save(whole, file, _use_new_zipfile_serialization=kind == "zip")
        return file, has_rival
    plain = {name: tensor.clone().contiguous() for name, tensor in tensors.items() if is_plain(tensor)}
    if kind == "safetensors":
        save_file(plain, place / f"{stem}.safetensors")
        return place / f"{stem}.safetensors", False
    places = {name: f"{stem}-0000{draw.choice((1, 2))}-of-00002.safetensors" for name in plain}
    for file_name in sorted(set(places.values())):
        save_file({name: plain[name] for name in plain if places[name] == file_name}, place / file_name)
    index = place / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, False


def read(path: Path, folder: Path | None) -> Any:
    """Load a tokenizer, or convert it and load that."""
    if folder is None:
        return mk.load_tokenizer(path)
    options = {"encoder_heads": 4, "decoder_heads": 4} if path.parent.name == "mage" else {}
    mk.convert(path, folder, reporter=Reporter.silent(), **options)  # type: ignore[arg-type]  # numbers of heads
    return mk.load_tokenizer(folder)


def try_case(number: int, originals: Originals, home: Path) -> bool:
    """Whether the case was read."""
    draw = random.Random(f"checkpoint-{number}")
    form, kind = draw.choice(sorted(originals)), draw.choice(FORMATS)
    published, state = originals[form]
    tensors, steps = dict(published), []
    for _ in range(draw.choice((0, 0, 1, 1, 1, 2))):
        change = draw.choice(CHANGES)
        tensors = change(dict(tensors), draw.choice(sorted(tensors)), draw)
        steps.append(change.__name__)
    place, folder = home / form, home / "out" if draw.random() < 0.4 else None
    shutil.rmtree(home)
    place.mkdir(parents=True)
    path, has_rival = write(place, form, kind, tensors, draw)
    is_damaged = draw.random() < (0.2 if steps else 0.5)
    if is_damaged:
        file = draw.choice(sorted(place.iterdir()))
        file.write_bytes(mutate_bytes(file.read_bytes(), draw))
        steps.append(f"bytes of {file.name}")
    case = (number, form, kind, "rival" if has_rival else "", *steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FileWarning)
        part = outcome(case, lambda: read(path, folder))
    for warning in caught:
        check_words(str(warning.message), case)
    if isinstance(part, Exception):
        assert folder is None or not folder.exists(), f"{part}: a folder was left; {case}"
        return False
    # A rival of changed tensors may be sound where these are not: it is made of their values, in floating numbers.
    unchecked = (is_damaged and kind != "zip") or len(steps) > 1 or (has_rival and bool(steps))
    check_weights(case, part.state_dict(), state, unchecked=unchecked)
    is_said = any("are read, not those under" in str(warning.message) for warning in caught)
    if folder is not None:
        is_said = bool(json.loads((folder / "card.json").read_text())["sources"][0].get("weights_not_read"))
    assert is_said or not has_rival or steps, f"chosen without a word: {case}"
    return True


def check_weights(case: object, weights: Tensors, state: Tensors, *, unchecked: bool) -> None:
    """All as published, or all of the rival's; where no checksum tells a flipped bit, finite numbers at least."""
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()), case
    if unchecked:
        return
    assert weights.keys() == state.keys(), case
    assert all(tensor.shape == state[name].shape for name, tensor in weights.items()), case
    for step in (0, 1):
        if all(torch.equal(tensor, state[name].float() + step) for name, tensor in weights.items()):
            return
    raise AssertionError(f"weights of two sources, or of none: {case}")


def test_few(originals: Originals, tmp_path: Path) -> None:
    count = sum(try_case(number, originals, tmp_path) for number in range(FEW))
    assert 5 < count < FEW - 5, "some are read, and some refused"


@pytest.mark.slow
def test_many(originals: Originals, tmp_path: Path) -> None:
    for number in range(FEW, FEW + MANY):
        try_case(number, originals, tmp_path)
