"""Published checkpoints beyond the recordings: what is refused and how, what old files hold beside weights, export."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import mage_kit as mk
from mage_kit.cli import main
from mage_kit.embedding import resize_positions
from mage_kit.legacy import Options, export_part, import_checkpoint
from tests import build
from tests.parity.recording import DATA

MINI = DATA / "mini" / "mage_mini.pth"
FINETUNED = DATA / "mini" / "finetuned_mini.pth"
TAMING = DATA / "taming" / "taming_mini.ckpt"
HEADS = ["--encoder-heads", "4", "--decoder-heads", "4"]
OPTIONS = Options(encoder_heads=4, decoder_heads=4)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, output, errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mage-kit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        caught = capsys.readouterr()
        return int(stopped.value.code or 0), caught.out, caught.err

    return call


@pytest.fixture
def weights() -> dict[str, Tensor]:
    held: dict[str, Tensor] = torch.load(MINI, weights_only=True)["model"]
    return held


def refused(path: Path, match: str, **keywords: Any) -> str:
    with pytest.raises(mk.MageKitError, match=match) as caught:
        import_checkpoint(path, **{"options": OPTIONS, **keywords})
    return str(caught.value)


# -- what is refused -------------------------------------------------------------------------------------------


class Runs:
    """Pickles into a call that leaves a file behind."""

    def __init__(self, left: Path) -> None:
        self.left = left

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.left}",)


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
def test_a_checkpoint_that_runs_code_runs_nothing(
    form: str, tmp_path: Path, weights: dict[str, Tensor], run: Callable[..., tuple[int, str, str]]
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
def test_truncated(source: Path, share: float, tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
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


def test_names_from_a_file_reach_no_terminal_raw(
    tmp_path: Path, weights: dict[str, Tensor], run: Callable[..., tuple[int, str, str]]
) -> None:
    torch.save({"model": {**weights, "loss\x1b[31mred": torch.ones(1)}}, tmp_path / "red.pth")
    code, out, error = run("convert", tmp_path / "red.pth", "--out", tmp_path / "out", *HEADS)
    assert code == 2 and "printable" in error and "\x1b[31mred" not in out + error


def test_very_many_tensors_take_no_time(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    many = {f"blocks.{number}.x": torch.ones(1) for number in range(20_000)}
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


def test_renamed_tensors_are_listed_with_the_nearest_name(
    tmp_path: Path, weights: dict[str, Tensor], run: Callable[..., tuple[int, str, str]]
) -> None:
    weights["blocks.1.attn.query_key_value.weight"] = weights.pop("blocks.1.attn.qkv.weight")
    weights["norm.weight"] = weights["norm.weight"][:-1]
    torch.save({"model": weights}, tmp_path / "renamed.pth")
    code, _, text = run("convert", tmp_path / "renamed.pth", "--out", tmp_path / "out", *HEADS)
    assert code == 2 and "does not fit layout 'mage'" in text
    assert "1 missing: blocks.1.attn.qkv.weight, did you mean 'blocks.1.attn.query_key_value.weight'?" in text
    assert "1 unexpected: blocks.1.attn.query_key_value.weight" in text
    assert "1 of another shape: norm.weight (63,) for (64,)" in text


@pytest.mark.parametrize("given", ["vqgan", "llamagen", "maskgit_jax", "mage", "mage_classifier"])
def test_a_taming_file_under_another_layout_is_told_its_own(
    given: str, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, error = run("convert", TAMING, "--layout", given, "--out", tmp_path / "out")
    assert code == 2 and "--layout taming" in error and f"layout '{given}'" in error


def test_unknown_layout_and_unknown_file(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    refused(MINI, "layout: 'vqgam', did you mean 'vqgan'", layout="vqgam")
    mae = {name: tensor for name, tensor in weights.items() if not name.startswith(("token_emb", "vqgan", "mlm"))}
    torch.save({"model": mae}, tmp_path / "mae.pth")
    refused(tmp_path / "mae.pth", "none of the known layouts")


def test_sizes_that_no_shape_tells(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    refused(MINI, "encoder of width 64: give its number of heads", options=Options())
    refused(MINI, r"decoder of width 48: .*decoder-heads", options=Options(encoder_heads=4))
    refused(MINI, "encoder-heads: 5, must divide", options=Options(encoder_heads=5, decoder_heads=4))
    refused(MINI, "128x128 gives 64 tokens, the file has 256", options=Options((128, 128), 4, 4))
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
    with pytest.raises(mk.MageKitError, match=r"image_size: given, but .* is no checkpoint file"):
        mk.load_tokenizer(tmp_path / "tokenizer", image_size=(64, 64))


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


# -- what old files hold beside weights ------------------------------------------------------------------------


def same_tokens(part: Any) -> None:
    images = load_file(DATA / "mini" / "expected.safetensors")
    assert isinstance(part, mk.Mage)
    assert torch.equal(part.tokenizer.encode(images["images_uint8"].float() / 255), images["token_ids"])


def test_training_state_and_command_line_are_passed_over(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MAGE's scripts save it: model, optimizer, epoch, scaler, args; and taming's, with Lightning's classes."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    rest = {"optimizer": optimizer.state_dict(), "epoch": 7, "scaler": {"scale": 65536.0}}
    torch.save({"model": weights, **rest, "args": argparse.Namespace(lr=1e-3, model="x")}, tmp_path / "script.pth")
    imported = import_checkpoint(tmp_path / "script.pth", options=OPTIONS)
    same_tokens(imported.part)
    assert imported.card["not_weights"] == ["optimizer", "epoch", "scaler", "args"]

    name = "pytorch_lightning.callbacks.model_checkpoint"
    kept = type("ModelCheckpoint", (), {"__module__": name, "__qualname__": "ModelCheckpoint"})
    tensors = torch.load(TAMING, weights_only=True)["state_dict"]
    with monkeypatch.context() as patch:
        for parts in range(1, 4):
            place = ".".join(name.split(".")[:parts])
            patch.setitem(sys.modules, place, types.ModuleType(place))
        sys.modules[name].ModelCheckpoint = kept  # type: ignore[attr-defined]
        content = {"state_dict": tensors, "callbacks": {kept: {"best": 0.1}}, "global_step": 3}
        torch.save(content, tmp_path / "last.ckpt")
    assert isinstance(import_checkpoint(tmp_path / "last.ckpt").part, mk.TamingVQGAN)


@pytest.mark.parametrize("form", ["bare", "safetensors", "wrapped", "old"])
def test_other_containers(form: str, tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pth")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "wrapped":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form == "bare")
    same_tokens(import_checkpoint(path, options=OPTIONS).part)


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    tensors = torch.load(DATA / "llamagen" / "llamagen_mini.pt", weights_only=True)["model"]
    raw = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    torch.save({"model": raw, "ema": tensors}, tmp_path / "both.pt")
    imported = import_checkpoint(tmp_path / "both.pt")
    assert imported.card["sources"][0]["weights_under"] == "ema"
    assert float(imported.part.state_dict()["quantize.embedding.weight"].abs().sum()) > 0
    asked = import_checkpoint(tmp_path / "both.pt", weights="model")
    assert float(asked.part.state_dict()["quantize.embedding.weight"].abs().sum()) == 0
    with pytest.raises(mk.MageKitError, match="weights: 'modle', did you mean 'model'"):
        import_checkpoint(tmp_path / "both.pt", weights="modle")
    torch.save({"model": tensors, "ema": {"decay": torch.tensor(0.999)}}, tmp_path / "settings.pt")
    assert import_checkpoint(tmp_path / "settings.pt").card["sources"][0]["weights_under"] == "model"


def test_tensors_nobody_knows_are_left_out_on_request_alone(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["projector.0.weight"] = torch.ones(3, 3)
    torch.save({"model": weights}, tmp_path / "more.pth")
    refused(tmp_path / "more.pth", "1 unexpected: projector.0.weight")
    imported = import_checkpoint(tmp_path / "more.pth", options=Options(None, 4, 4, ignore=("projector.",)))
    (item,) = (item for item in imported.card["unused"] if item["name"] == "projector.0.weight")
    assert item["reason"] == "left out on request"
    assert torch.equal(imported.unused["projector.0.weight"], torch.ones(3, 3))
    assert "leave them out with --ignore projector." in refused(tmp_path / "more.pth", "unexpected")
    for prefix in ("zzz", "blocks."):
        options = Options(None, 4, 4, ignore=("projector.", prefix))
        assert f"ignore: '{prefix}'" in refused(
            tmp_path / "more.pth", "no tensor that could be left out", options=options
        )


def test_mask_token_padding(weights: dict[str, Tensor]) -> None:
    """A model trained with it reads the tensor that others leave unused."""
    imported = import_checkpoint(MINI, options=Options(None, 4, 4, padding="mask_token"))
    part = imported.part
    assert isinstance(part, mk.Mage) and isinstance(part.padding, mk.MaskTokenPadding)
    assert torch.equal(part.padding.mask_token, weights["mask_token"].float().flatten())
    assert "mask_token" not in {item["name"] for item in imported.card["unused"]}


# -- back again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (MINI, HEADS),
        (FINETUNED, ["--vqgan", MINI, "--encoder-heads", "4"]),
        (TAMING, ["--image-size", "64"]),
        (DATA / "llamagen" / "llamagen_mini.pt", ["--image-size", "64x96"]),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else None,
)
def test_import_then_export_is_bit_identical(
    source: Path, arguments: list[Any], tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """For every tensor of the file, its dtype included; the tokenizer given beside is added."""
    code, out, _ = run("convert", source, "--out", tmp_path / "folder", *arguments)
    assert code == 0 and "written" in out
    code, out, _ = run("export", tmp_path / "folder", "--out", tmp_path / "back.pth")
    assert code == 0 and "filled" not in out
    (before,), (after,) = (
        [value for value in torch.load(path, weights_only=True).values() if isinstance(value, dict)]
        for path in (source, tmp_path / "back.pth")
    )
    assert before.keys() <= after.keys()
    assert all(name.startswith("vqgan.") for name in after.keys() - before.keys())
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    assert run("export", tmp_path / "folder", "--out", tmp_path / "back.pth")[0] == 2, "overwritten unasked"


def test_parts_and_formats(
    tmp_path: Path, weights: dict[str, Tensor], run: Callable[..., tuple[int, str, str]]
) -> None:
    """The tokenizer of a model in its own layout, from there to a folder and back; the same as safetensors."""
    assert run("convert", MINI, "--out", tmp_path / "mage", *HEADS)[0] == 0
    assert run("export", tmp_path / "mage", "--part", "tokenizer", "--out", tmp_path / "vqgan.ckpt")[0] == 0
    assert run("convert", tmp_path / "vqgan.ckpt", "--out", tmp_path / "tokenizer")[0] == 0
    assert run("export", tmp_path / "tokenizer", "--out", tmp_path / "again.safetensors")[0] == 0
    own = {name.removeprefix("vqgan."): tensor for name, tensor in weights.items() if name.startswith("vqgan.")}
    for held in (
        torch.load(tmp_path / "vqgan.ckpt", weights_only=True)["state_dict"],
        load_file(tmp_path / "again.safetensors"),
    ):
        assert held.keys() == own.keys()
        assert all(held[name].dtype == own[name].dtype and torch.equal(held[name], own[name]) for name in own)
    code, _, error = run("export", MINI, "--out", tmp_path / "x.pth")
    assert code == 2 and "is a file, must be a folder" in error
    code, _, error = run("export", tmp_path / "mage", "--out", tmp_path / "x.bin")
    assert code == 2 and "must end in" in error
    code, _, error = run("export", tmp_path / "tokenizer", "--part", "encoder", "--out", tmp_path / "x.safetensors")
    assert code == 2 and "holds a tokenizer" in error


def test_what_was_kept_beside_must_be_whole(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    """Export would otherwise fill with zeros what the source had."""
    assert run("convert", MINI, "--out", tmp_path / "mage", *HEADS)[0] == 0
    kept = tmp_path / "mage" / "legacy.safetensors"
    content = kept.read_bytes()
    for damage in (kept.unlink, lambda: kept.write_bytes(content[:-9]),
                   lambda: save_file({"cls_token": torch.ones(1)}, kept)):  # fmt: skip
        damage()
        code, _, error = run("export", tmp_path / "mage", "--out", tmp_path / "x.pth")
        assert code == 2 and "mage" in error and not (tmp_path / "x.pth").exists()
    kept.write_bytes(content)
    (tmp_path / "mage" / "card.json").write_text("{}")
    assert run("export", tmp_path / "mage", "--out", tmp_path / "x.pth")[0] == 2


def test_links_are_followed_and_stay(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for link, target in (("link", "disk"), ("dangling", "new")):
        assert run("convert", MINI, "--out", tmp_path / link, *HEADS)[0] == 0
        assert (tmp_path / link).is_symlink() and (tmp_path / target / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "disk", "link", "new"]


def test_what_no_tensor_tells_is_said(tmp_path: Path) -> None:
    made = export_part(import_checkpoint(MINI, options=Options((128, 512), 4, 8)).part)
    assert made.flags == ["--image-size 128x512", "--encoder-heads 4", "--decoder-heads 8"]
    uneven = mk.ViTEncoder(dim=32, depth=2, heads=4, mlp_ratio=2.7)
    assert export_part(grown(encoder=uneven)).tensors["blocks.0.mlp.fc1.weight"].shape == (86, 32)


def test_double_precision_is_read_as_float32(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    """And written so: what was rounded is not claimed to be exact."""
    double = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    torch.save({"model": double}, tmp_path / "double.pth")
    imported = import_checkpoint(tmp_path / "double.pth", options=OPTIONS)
    same_tokens(imported.part)
    made = export_part(imported.part, imported.card, imported.unused)  # type: ignore[arg-type]
    assert made.tensors["norm.bias"].dtype == torch.float32


def test_trained_on_after_import_exports_in_float32(weights: dict[str, Tensor]) -> None:
    """Half precision would round what was learned; rows that nobody uses stay as they were."""
    imported = import_checkpoint(MINI, options=OPTIONS)
    with torch.no_grad():
        imported.part.get_parameter("embedding.table").add_(1e-5)
    made = export_part(imported.part, imported.card, imported.unused)  # type: ignore[arg-type]
    table = made.tensors["token_emb.word_embeddings.weight"]
    old = weights["token_emb.word_embeddings.weight"].float()
    assert table.dtype == torch.float32 == made.tensors["cls_token"].dtype
    changed = (table != old).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [*range(1024), 1100, 2024]


def grown(norm_groups: int = 32, **parts: Any) -> mk.Mage:
    """A model of ours that the published layout can hold."""
    return build.mage(build.vqgan(channels=3, base_channels=32, norm_groups=norm_groups), **parts).eval()


def test_a_model_of_ours_in_the_published_layout_computes_the_same(tmp_path: Path) -> None:
    model = grown()
    mk.save(model, tmp_path / "ours")
    from mage_kit.jobs.export import export

    report = export(tmp_path / "ours", tmp_path / "ours.pth")
    assert any(text.startswith("token_emb.word_embeddings.weight (rows 32 to 1031") for text in report.filled)
    assert "decoder_pred.weight" in report.filled and not report.left_out
    again = mk.load(tmp_path / "ours.pth", encoder_heads=4, decoder_heads=4)
    ids, masked = build.tokens(model, 3), torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.6
    with torch.no_grad():
        assert torch.equal(model.logits(ids, masked), again.logits(ids, masked))
    held = torch.load(tmp_path / "ours.pth", weights_only=True)["model"]
    assert not held["token_emb.word_embeddings.weight"][32:108].any()
    assert torch.equal(held["token_emb.position_ids"], torch.arange(17)[None])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grown(norm_groups=16), "tokenizer.norm_groups is 16, it has 32"),
        (lambda: build.mage(), "tokenizer.channels is 1, it has 3; tokenizer.norm_groups is 4, it has 32"),
        (lambda: build.mage(mk.Patches(image_size=(16, 16), channels=3, patch=4)), "tokenizer is Patches"),
        (lambda: grown(decoder=mk.LinearDecoder(32, 16, dim=24), drop=0.0), "decoder is LinearDecoder"),
        (lambda: grown(padding=mk.ClassTokenPadding(
            replace_seen=False)), "padding.replace_seen is False"),
        (lambda: grown(embedding=mk.EmbeddingConfig(norm=False)),
         "token_emb.LayerNorm"),
    ],
)  # fmt: skip
def test_what_the_published_layout_cannot_hold_is_refused(make: Callable[[], mk.Mage], words: str) -> None:
    with pytest.raises(mk.MageKitError, match="cannot hold this") as caught:
        export_part(make())
    assert words in str(caught.value)


def plain_forward(tensors: dict[str, Tensor], ids: Tensor, heads: int) -> Tensor:
    """A plain ViT, written from the documented key map alone: mean features of the patch positions."""
    width = tensors["cls_token"].shape[-1]
    x = F.embedding(ids, tensors["token_embed.weight"])
    x = torch.cat([tensors["cls_token"].expand(len(ids), 1, width), x], dim=1) + tensors["pos_embed"]

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, (width,), tensors[name + ".weight"], tensors[name + ".bias"], 1e-6)

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, tensors[name + ".weight"], tensors[name + ".bias"])

    x, block = norm("norm_pre", x), 0
    while f"blocks.{block}.norm1.weight" in tensors:
        at = f"blocks.{block}."
        query, key, value = linear(at + "attn.qkv", norm(at + "norm1", x)).chunk(3, dim=-1)
        mixed = [
            (q @ k.transpose(1, 2) * (width // heads) ** -0.5).softmax(dim=-1) @ v
            for q, k, v in zip(*(part.split(width // heads, dim=-1) for part in (query, key, value)), strict=True)
        ]
        x = x + linear(at + "attn.proj", torch.cat(mixed, dim=-1))
        x = x + linear(at + "mlp.fc2", F.gelu(linear(at + "mlp.fc1", norm(at + "norm2", x))))
        block += 1
    return x[:, 1:].mean(dim=1)


def test_the_encoder_as_a_plain_vit(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("convert", MINI, "--out", tmp_path / "mage", *HEADS)[0] == 0
    code, out, _ = run("export", tmp_path / "mage", "--part", "encoder", "--out", tmp_path / "vit.safetensors")
    assert code == 0 and "plain_vit" in out
    expected = load_file(DATA / "mini" / "expected.safetensors")
    pooled = plain_forward(load_file(tmp_path / "vit.safetensors"), expected["token_ids"], heads=4)
    assert float((pooled - expected["pooled_features_per_block"][-1]).norm() / pooled.norm()) < 1e-5
    arguments = ["--vqgan", MINI, "--encoder-heads", "4"]
    assert run("convert", FINETUNED, "--out", tmp_path / "classes", *arguments)[0] == 0
    assert run("export", tmp_path / "classes", "--part", "encoder", "--out", tmp_path / "c.safetensors")[0] == 0
    tensors = load_file(tmp_path / "c.safetensors")
    mean = plain_forward(tensors, expected["token_ids"], heads=4)
    normed = F.layer_norm(mean, (64,), tensors["fc_norm.weight"], tensors["fc_norm.bias"], 1e-6)
    logits = F.linear(normed, tensors["head.weight"], tensors["head.bias"])
    recorded = load_file(DATA / "mini" / "finetuned_expected.safetensors")["logits"]
    assert float((logits - recorded).norm() / recorded.norm()) < 1e-5
    with safe_open(tmp_path / "vit.safetensors", "pt") as file:
        assert '"heads": 4' in file.metadata()["mage_kit"]


def test_positions_for_another_grid(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    """The class position stays; a plane stays a plane inside the border; the same grid changes nothing."""
    old, new = mk.TokenGrid(8, 8), mk.TokenGrid(16, 24)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    positions = torch.cat([torch.full((1, 2), 7.0), torch.stack([y, x], dim=-1).reshape(64, 2)])
    assert torch.equal(resize_positions(positions, old, old), positions)
    resized = resize_positions(positions, old, new)
    assert resized.shape == (1 + 16 * 24, 2) and torch.equal(resized[0], positions[0])
    plane = resized[1:].reshape(16, 24, 2)[4:-4, 6:-6]
    rows = (torch.arange(16) + 0.5) / 2 - 0.5
    columns = (torch.arange(24) + 0.5) / 3 - 0.5
    torch.testing.assert_close(plane[..., 0], rows[4:-4, None].expand(8, 12), atol=1e-4, rtol=0)
    torch.testing.assert_close(plane[..., 1], columns[None, 6:-6].expand(8, 12), atol=1e-4, rtol=0)
    assert run("convert", MINI, "--out", tmp_path / "mage", *HEADS)[0] == 0
    target = tmp_path / "vit.safetensors"
    assert run("export", tmp_path / "mage", "--part", "encoder", "--grid", "24x32", "--out", target)[0] == 0
    assert load_file(target)["pos_embed"].shape == (1, 1 + 24 * 32, 64)
    code, _, error = run("export", tmp_path / "mage", "--grid", "24", "--out", tmp_path / "x.pth")
    assert code == 2 and "goes with part 'encoder' alone" in error
    code, _, error = run(
        "export", tmp_path / "mage", "--part", "encoder", "--grid", "999999x9", "--out", tmp_path / "y.safetensors"
    )
    assert code == 2 and "each between 1 and 1024" in error


# -- in use ----------------------------------------------------------------------------------------------------


def test_from_file_to_images_and_classes(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    """The README's way: convert, generate; classify. A folder of one kind is not taken for another."""
    code, out, _ = run("convert", MINI, "--out", tmp_path / "mage", *HEADS)
    assert code == 0 and "legacy rows" in out and "191 tensors, 1,336,397 values" in out
    assert run("generate", tmp_path / "mage", "-n", 2, "--steps", 2, "--out", tmp_path / "two.png")[0] == 0
    assert run("convert", FINETUNED, "--vqgan", MINI, "--encoder-heads", 4, "--out", tmp_path / "classes")[0] == 0
    code, out, _ = run("classify", tmp_path / "classes", tmp_path / "two.png", "--top", 3)
    assert code == 0 and "two.png" in out
    for command, words in (
        (("generate", tmp_path / "classes"), "holds a classifier"),
        (("generate", MINI), "is a file, must be a folder"),
        (("probe", MINI), "is a file, must be a folder"),
        (("classify", tmp_path / "mage", tmp_path / "two.png"), "holds a model"),
        (("classify", tmp_path / "classes", MINI), "cannot be decoded"),
        (("classify", tmp_path / "classes", tmp_path / "two.png", "--top", 11), "number of classes (10)"),
        (("convert", MINI, "--out", tmp_path / "mage", *HEADS), "is not empty"),
        (("convert", MINI, "--out", tmp_path / "new", "--image-size", "0x5"), "image-size: '0x5'"),
    ):
        code, _, error = run(*command)
        assert code == 2 and words in error, command
    assert run("convert", MINI, "--out", tmp_path / "mage", *HEADS, "--overwrite")[0] == 0


def test_a_card_tells_where_weights_came_from(tmp_path: Path) -> None:
    import hashlib
    import json

    from mage_kit.jobs.convert import convert

    convert(MINI, tmp_path / "mage", encoder_heads=4, decoder_heads=4)
    card = json.loads((tmp_path / "mage" / "card.json").read_text())
    assert card["sources"][0]["sha256"] == hashlib.sha256(MINI.read_bytes()).hexdigest()
    assert {item["name"] for item in card["unused"]} == load_file(tmp_path / "mage" / "legacy.safetensors").keys()
    assert card["values"] == card["values_loaded"] + sum(item["values"] for item in card["unused"])
    model = mk.load(tmp_path / "mage")
    assert mk.Recipe.load(tmp_path / "mage" / "recipe.json").check().spec == model.spec
    same_tokens(model)


def test_a_converted_tokenizer_serves_a_recipe(tmp_path: Path) -> None:
    """`tokenizer.weights` takes the folder, whatever the recipe says of the tokenizer's training."""
    pytest.importorskip("lightning_fabric")
    from mage_kit.jobs.convert import convert
    from mage_kit.training.run import fill_tokenizer

    convert(DATA / "maskgit_jax" / "maskgit_tokenizer_mini.msgpack", tmp_path / "tokenizer", image_size=(64, 64))
    stated = mk.TOKENIZERS.describe(mk.load_tokenizer(tmp_path / "tokenizer"), weights=str(tmp_path / "tokenizer"))
    recipe = mk.Recipe.load(Path(__file__).parents[1] / "recipes" / "mage_vitb.json").extended(
        tokenizer={**stated, "codebook": "ema", "decay": 0.9}
    )
    tokenizer = recipe.build_tokenizer()
    fill_tokenizer(tokenizer, recipe, tmp_path / "tokenizer")
    expected = load_file(DATA / "maskgit_jax" / "expected.safetensors")
    assert torch.equal(tokenizer.encode(expected["images_uint8"].float() / 255), expected["token_ids"])
    wrong = recipe.extended(tokenizer={"kind": "taming", "weights": str(tmp_path / "tokenizer")})
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.kind: taming, the trained one has vqgan"):
        fill_tokenizer(wrong.build_tokenizer(), wrong, tmp_path / "tokenizer")
    with pytest.raises(mk.RecipeError, match="convert a checkpoint first"):
        fill_tokenizer(tokenizer, recipe, MINI)
    convert(MINI, tmp_path / "model", encoder_heads=4, decoder_heads=4)  # the tokenizer in a model's folder serves too
    inside = mk.load_tokenizer(tmp_path / "model")
    recipe = recipe.extended(tokenizer=mk.TOKENIZERS.describe(inside, weights=str(tmp_path / "model")))
    fill_tokenizer(tokenizer := recipe.build_tokenizer(), recipe, tmp_path / "model")
    assert torch.equal(tokenizer.quantize.embedding.weight, inside.quantize.embedding.weight)


def test_a_classifier_leaves_the_model_that_it_is_made_of_as_it_was() -> None:
    model = build.mage().eval()
    ids = build.tokens(model, 2)
    masked = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        before = model.logits(ids, masked)
        made = mk.MageClassifier(tokenizer=model.tokenizer, encoder=model.encoder, classes=3)
        assert torch.equal(model.logits(ids, masked), before)
    assert torch.equal(made.encoder.blocks[0].attn.qkv.weight, model.encoder.blocks[0].attn.qkv.weight)
    assert not any(name.startswith("encoder.norm") for name in made.state_dict())
    with pytest.raises(ValueError, match="classes: 0"):
        mk.MageClassifier(tokenizer=model.tokenizer, encoder=model.encoder, classes=0)


def test_training_a_published_tokenizer_further_starts_from_its_codes() -> None:
    """Fresh codes are placed on features first; trained ones must not be."""
    tokenizer = import_checkpoint(DATA / "maskgit_jax" / "maskgit_tokenizer_mini.msgpack",
                                  options=Options(image_size=(64, 64))).part  # fmt: skip
    assert isinstance(tokenizer, mk.VQGAN) and tokenizer.codebook == "ema"
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(mk.MageKitError, match="start_training"):
        tokenizer.objective(images, 0.0, torch.Generator())
    before = tokenizer.quantize.embedding.weight.clone()
    tokenizer.start_training()
    tokenizer.objective(images, 0.0, torch.Generator().manual_seed(0))
    after = tokenizer.quantize.embedding.weight
    changed = (after - before).norm(dim=1) / before.norm(dim=1)
    assert 0 < float(changed.max()) < 0.9 and float((changed < 1e-5).double().mean()) > 0.8


PLUGIN_TOKENIZER = '''
import mage_kit as mk

@mk.TOKENIZERS.register("my_tok")
class MyTokenizer(mk.Patches):
    """Mine.

    Args:
        image_size: Pixels.
        channels: Of an image.
        patch: Side.
        mean: Subtracted.
        std: Divided by.
    """
'''


def test_a_plugin_tokenizer_comes_back_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "my_lab_tokenizer.py").write_text(PLUGIN_TOKENIZER)
    make = "import my_lab_tokenizer as m, mage_kit as mk; mk.save_tokenizer(m.MyTokenizer(patch=8), 'folder')"
    read = f"import mage_kit as mk; print(type(mk.load_tokenizer({str(tmp_path / 'folder')!r})).__name__)"
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True)
    done = subprocess.run([sys.executable, "-c", read], cwd=DATA, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "MyTokenizer", done.stderr


def test_folders_of_an_earlier_version_load(tmp_path: Path) -> None:
    """They hold the codebook's running means beside the weights, and do not state every keyword."""
    model = build.mage()
    mk.save(model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    for name in ("counts_V", "sums_VW", "updates"):
        tensors[f"tokenizer.quantize.{name}"] = torch.ones(3)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    recipe = tmp_path / "model" / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"middle_blocks": 2,', ""))
    mk.load(tmp_path / "model")
    tensors["tokenizer.quantize.other"] = torch.ones(3)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(mk.MageKitError, match=r"1 unexpected: tokenizer\.quantize\.other"):
        mk.load(tmp_path / "model")
