"""What is no checkpoint, or not the one that it is given as: one clear message, and nothing run."""

from __future__ import annotations

import os
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mage_kit as mk
from mage_kit.legacy import Options, import_checkpoint
from tests.legacy.files import FINETUNED, HEADS, MINI, OPTIONS, TAMING, Run, refused
from tests.parity.recording import DATA


class Runs:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, left: Path) -> None:
        self.left = left

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.left}",)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_a_checkpoint_that_runs_code_runs_nothing(
    form: str, tmp_path: Path, weights: dict[str, Tensor], run: Run
) -> None:
    left, path = tmp_path / "left", tmp_path / "evil.pth"
    content = {"model": weights, "args": Runs(left)}
    if form == "bare":
        path.write_bytes(pickle.dumps({"args": Runs(left)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    code, _, error = run("convert", path, "--out", tmp_path / "out", *HEADS)
    assert code == 2 and error.count("error:") == 1
    assert "system" in error and "nothing of it was" in error
    assert not left.exists() and not (tmp_path / "out").exists()
    torch.save(content, path, pickle_protocol=4)
    assert "system" in run("convert", path, "--out", tmp_path / "out", *HEADS)[2] and not left.exists()
    pickle.loads(pickle.dumps(Runs(left)))  # the trap itself works
    assert left.exists()


@pytest.mark.parametrize("source", [MINI, TAMING, DATA / "maskgit_jax" / "maskgit_tokenizer_mini.msgpack"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_truncated(source: Path, share: float, tmp_path: Path, run: Run) -> None:
    path = tmp_path / source.name
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    code, _, error = run("convert", path, "--out", tmp_path / "out")
    assert code == 2 and error.count("error:") == 1
    assert path.name in error and ("damaged" in error or "is empty" in error)
    assert "Traceback" not in error and not (tmp_path / "out").exists()


def test_truncated_safetensors(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / "whole.safetensors")
    part = tmp_path / "part.safetensors"
    part.write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-100])
    refused(part, "part.safetensors: cannot be read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89PNG\r\n\x1a\n....", "no known format"),
        (b"\xff\xd8\xff\xe0 a picture", "no known format"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_checkpoint(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path, words)


def test_missing_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.pth", "cannot be read")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file")


def rewritten(source: Path, target: Path, compression: int, change: bytes = b"") -> Path:
    """The same zip with its records compressed, or one value changed under the old checksum."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", compression) as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    if change:
        content = bytearray(target.read_bytes())
        middle = len(content) // 2
        content[middle : middle + len(change)] = change
        target.write_bytes(content)
    return target


def test_a_compressed_zip_is_read_and_a_changed_one_refused(tmp_path: Path) -> None:
    """Neither may give other numbers in silence: a mapping of compressed bytes would."""
    small = rewritten(MINI, tmp_path / "small.pth", zipfile.ZIP_DEFLATED)
    first, second = (import_checkpoint(path, options=OPTIONS).part.state_dict() for path in (MINI, small))
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = rewritten(MINI, tmp_path / "changed.pth", zipfile.ZIP_STORED, b"\x01\x02\x03")
    refused(changed, "damaged.*CRC")


def test_names_from_a_file_reach_no_terminal_raw(tmp_path: Path, weights: dict[str, Tensor], run: Run) -> None:
    torch.save({"model": {**weights, "loss\x1b[31mred": torch.ones(1)}}, tmp_path / "red.pth")
    code, out, error = run("convert", tmp_path / "red.pth", "--out", tmp_path / "out", *HEADS)
    assert code == 2 and "printable" in error and "\x1b[31mred" not in out + error


def test_very_many_tensors_take_no_time(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    many = {f"blocks.{number}.x": torch.ones(1) for number in range(4_000)}
    torch.save({"model": {**weights, **many}}, tmp_path / "many.pth")
    start = time.perf_counter()
    refused(tmp_path / "many.pth", "unexpected|missing")
    assert time.perf_counter() - start < 30


def test_a_file_under_another_name_is_read_by_its_content(tmp_path: Path) -> None:
    renamed = tmp_path / "tokenizer.pth"
    renamed.write_bytes((DATA / "maskgit_jax" / "maskgit_tokenizer_mini.msgpack").read_bytes())
    assert isinstance(import_checkpoint(renamed).part, mk.VQGAN)


def test_another_pickle_protocol_is_named(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save({"model": weights}, tmp_path / "protocol.pth", pickle_protocol=4)
    refused(tmp_path / "protocol.pth", "not written by torch.save with its usual pickle protocol")


def test_renamed_tensors_are_listed_with_the_nearest_name(tmp_path: Path, weights: dict[str, Tensor], run: Run) -> None:
    weights["blocks.1.attn.query_key_value.weight"] = weights.pop("blocks.1.attn.qkv.weight")
    weights["norm.weight"] = weights["norm.weight"][:-1]
    torch.save({"model": weights}, tmp_path / "renamed.pth")
    code, _, text = run("convert", tmp_path / "renamed.pth", "--out", tmp_path / "out", *HEADS)
    assert code == 2 and "does not fit layout 'mage'" in text
    assert "1 missing: blocks.1.attn.qkv.weight, did you mean 'blocks.1.attn.query_key_value.weight'?" in text
    assert "1 unexpected: blocks.1.attn.query_key_value.weight" in text
    assert "1 of another shape: norm.weight (63,) for (64,)" in text


@pytest.mark.parametrize("given", ["vqgan", "llamagen", "maskgit_jax", "mage", "mage_classifier"])
def test_a_taming_file_under_another_layout_is_told_its_own(given: str, tmp_path: Path, run: Run) -> None:
    code, _, error = run("convert", TAMING, "--layout", given, "--out", tmp_path / "out")
    assert code == 2 and "--layout taming" in error and f"layout '{given}'" in error


def test_unknown_layout_and_unknown_file(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    refused(MINI, "layout: 'vqgam', did you mean 'vqgan'", layout="vqgam")
    known = ("token_emb", "vqgan", "mlm", "patch_embed")
    other = {name: tensor for name, tensor in weights.items() if not name.startswith(known)}
    torch.save({"model": other}, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", "none of the known layouts")


def test_sizes_that_no_shape_tells(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    refused(MINI, "encoder of width 64: give its number of heads", options=Options())
    refused(MINI, r"decoder of width 48: .*decoder-heads", options=Options(encoder_heads=4))
    refused(MINI, "encoder-heads: 5, must divide", options=Options(encoder_heads=5, decoder_heads=4))
    refused(MINI, "120x120, must be multiples of 16", options=Options((120, 120), 4, 4))
    wide = import_checkpoint(MINI, options=Options((128, 512), 4, 4)).part
    assert isinstance(wide, mk.Mage) and wide.spec.grid == mk.TokenGrid(8, 32)
    weights["token_emb.word_embeddings.weight"] = weights["token_emb.word_embeddings.weight"][:-1]
    torch.save({"model": weights}, tmp_path / "rows.pth")
    refused(tmp_path / "rows.pth", "2024 rows, must be 2025")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"padding": "mask"}, "padding: 'mask', must be"),
        ({"ignore": "projector."}, "ignore: 'projector.', must be a tuple"),
        ({"encoder_heads": -4}, "encoder_heads: -4, must be"),
        ({"encoder_heads": 0}, "encoder_heads: 0, must be"),
        ({"image_size": 256}, "image_size: 256, must be a pair"),
        ({"image_size": (256, 0)}, r"image_size: \(256, 0\), must be a pair"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(mk.MageKitError, match=words):
        mk.load(MINI, **wrong)


def test_options_that_say_nothing_of_a_layout_are_refused() -> None:
    for given in (Options(encoder_heads=3), Options(padding="mask_token")):
        refused(TAMING, "given, but the layout has no use for it", options=given)
    refused(FINETUNED, "decoder_heads: given", options=OPTIONS, vqgan=MINI)


def test_the_tokenizer_inside_a_model_needs_no_heads(weights: dict[str, Tensor]) -> None:
    tokenizer = mk.load_tokenizer(MINI)
    assert isinstance(tokenizer, mk.VQGAN)
    assert torch.equal(tokenizer.quantize.embedding.weight, weights["vqgan.quantize.embedding.weight"].float())


def test_places_that_hold_nothing_and_folders_given_options(tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError, match="no such file or folder"):
        mk.load(tmp_path / "nothing")
    mk.save_tokenizer(import_checkpoint(TAMING).part, tmp_path / "tokenizer")  # type: ignore[arg-type]
    with pytest.raises(mk.MageKitError, match=r"encoder_heads: given, but .* is no checkpoint file"):
        mk.load_tokenizer(tmp_path / "tokenizer", encoder_heads=4)
    with pytest.raises(mk.MageKitError, match=r"image_size: 64, must be a pair"):
        mk.load_tokenizer(tmp_path / "tokenizer", image_size=64)  # type: ignore[arg-type]  # what is refused


def strange(kind: str) -> Tensor:
    """Tensors that a file can hold and no model can use."""
    return {
        "sparse": lambda: torch.eye(64).to_sparse(),
        "meta": lambda: torch.empty(64, device="meta"),
        "complex": lambda: torch.ones(64, dtype=torch.complex64),
        "integer": lambda: torch.ones(64, dtype=torch.int8),
        "bomb": lambda: torch.as_strided(torch.ones(1), (1 << 18, 1 << 18), (0, 0)),
        "empty": lambda: torch.ones(0),
        "huge": lambda: torch.full((64,), 1e300, dtype=torch.float64),
    }[kind]()


@pytest.mark.parametrize("kind", ["sparse", "meta", "complex", "integer", "bomb", "empty", "huge"])
@pytest.mark.parametrize("name", ["norm.bias", "cls_token"])
def test_tensors_that_are_no_weights(name: str, kind: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    """Refused by name where they are loaded; where nothing reads them, only what claims more than the file holds."""
    weights[name] = strange(kind)
    torch.save({"model": weights}, tmp_path / "strange.pth")
    if name == "norm.bias" or kind in ("sparse", "meta", "bomb"):
        assert name in refused(tmp_path / "strange.pth", "strange.pth")
    else:
        import_checkpoint(tmp_path / "strange.pth", options=OPTIONS)


def test_values_that_are_not_finite(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["norm.bias"][3] = float("nan")
    torch.save({"model": weights}, tmp_path / "nan.pth")
    refused(tmp_path / "nan.pth", "norm.bias holds values that are not finite")


def test_the_tokenizer_of_a_checkpoint_without_one(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    alone_options = Options(encoder_heads=4)
    refused(FINETUNED, "holds no tokenizer; give its file", options=alone_options)
    refused(FINETUNED, "layout 'taming'.; MAGE's tokenizer has layout 'vqgan'", vqgan=TAMING, options=alone_options)
    refused(TAMING, "vqgan: given, but .* leave it out", vqgan=MINI)
    alone = {name.removeprefix("vqgan."): tensor for name, tensor in weights.items() if name.startswith("vqgan.")}
    torch.save({"state_dict": alone}, tmp_path / "vqgan.ckpt")
    for file in (MINI, tmp_path / "vqgan.ckpt"):
        assert isinstance(import_checkpoint(FINETUNED, vqgan=file, options=alone_options).part, mk.MageClassifier)
    assert isinstance(import_checkpoint(MINI, vqgan=tmp_path / "vqgan.ckpt", options=OPTIONS).part, mk.Mage)
    finer = {name: tensor.float() for name, tensor in alone.items()} | {"loss.logit_laplace_eps": torch.ones(1)}
    torch.save({"state_dict": finer}, tmp_path / "finer.ckpt")
    assert isinstance(import_checkpoint(MINI, vqgan=tmp_path / "finer.ckpt", options=OPTIONS).part, mk.Mage)
    alone["quantize.embedding.weight"] += 1
    torch.save({"state_dict": alone}, tmp_path / "other.ckpt")
    refused(MINI, "another tokenizer than", vqgan=tmp_path / "other.ckpt")
