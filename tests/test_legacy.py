"""Published checkpoints beyond the recordings: what is refused and how, what old files hold beside weights, export."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
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
    [(b"<!DOCTYPE html><html>", "web page"), (b"\xff\xd8\xff\xe0 a picture", "no known format"), (b"", "is empty")],
)
def test_what_is_no_checkpoint(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path, words)


def test_missing_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.pth", "cannot be read")
    refused(tmp_path, "is a folder")


def test_a_file_under_another_name_is_read_by_its_content(tmp_path: Path) -> None:
    renamed = tmp_path / "tokenizer.pth"
    renamed.write_bytes((DATA / "maskgit_jax" / "maskgit_tokenizer_mini.msgpack").read_bytes())
    assert isinstance(import_checkpoint(renamed).part, mk.VQGAN)


def test_renamed_tensors_are_listed_with_the_nearest_name(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["blocks.1.attn.query_key_value.weight"] = weights.pop("blocks.1.attn.qkv.weight")
    weights["norm.weight"] = weights["norm.weight"][:-1]
    torch.save({"model": weights}, tmp_path / "renamed.pth")
    text = refused(tmp_path / "renamed.pth", "does not fit layout 'mage'")
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
    refused(MINI, r"decoder of width 48: .*--decoder-heads", options=Options(encoder_heads=4))
    refused(MINI, "encoder-heads: 5, must divide", options=Options(encoder_heads=5, decoder_heads=4))
    refused(MINI, "128x128 gives 64 tokens, the file has 256", options=Options((128, 128), 4, 4))
    wide = import_checkpoint(MINI, options=Options((128, 512), 4, 4)).part
    assert isinstance(wide, mk.Mage) and wide.spec.grid == mk.TokenGrid(8, 32)
    weights["token_emb.word_embeddings.weight"] = weights["token_emb.word_embeddings.weight"][:-1]
    torch.save({"model": weights}, tmp_path / "rows.pth")
    refused(tmp_path / "rows.pth", "2024 rows, must be 2025")


def test_values_that_are_not_finite(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["norm.bias"][3] = float("nan")
    torch.save({"model": weights}, tmp_path / "nan.pth")
    refused(tmp_path / "nan.pth", "norm.bias holds values that are not finite")


def test_the_tokenizer_of_a_checkpoint_without_one(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    refused(FINETUNED, "holds no tokenizer; give its file")
    refused(FINETUNED, "layout 'taming'.; MAGE's tokenizer has layout 'vqgan'", vqgan=TAMING)
    refused(TAMING, "vqgan: given, but .* leave it out", vqgan=MINI)
    alone = {name.removeprefix("vqgan."): tensor for name, tensor in weights.items() if name.startswith("vqgan.")}
    torch.save({"state_dict": alone}, tmp_path / "vqgan.ckpt")
    for file in (MINI, tmp_path / "vqgan.ckpt"):
        assert isinstance(import_checkpoint(FINETUNED, vqgan=file, options=OPTIONS).part, mk.MageClassifier)
    assert isinstance(import_checkpoint(MINI, vqgan=tmp_path / "vqgan.ckpt", options=OPTIONS).part, mk.Mage)
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


def test_tensors_nobody_knows_are_left_out_on_request_alone(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    weights["projector.0.weight"] = torch.ones(3, 3)
    torch.save({"model": weights}, tmp_path / "more.pth")
    refused(tmp_path / "more.pth", "1 unexpected: projector.0.weight")
    imported = import_checkpoint(tmp_path / "more.pth", options=Options(None, 4, 4, ignore=("projector.",)))
    (item,) = (item for item in imported.card["unused"] if item["name"] == "projector.0.weight")
    assert item["reason"] == "left out on request"
    assert torch.equal(imported.unused["projector.0.weight"], torch.ones(3, 3))


def test_mask_token_padding(weights: dict[str, Tensor]) -> None:
    """A model trained with it reads the tensor that others leave unused."""
    imported = import_checkpoint(MINI, options=Options(None, 4, 4, padding="mask_token"))
    part = imported.part
    assert isinstance(part, mk.Mage) and isinstance(part.padding, mk.MaskTokenPadding)
    assert torch.equal(part.padding.mask_token, weights["mask_token"].float().flatten())
    assert "mask_token" not in {item["name"] for item in imported.card["unused"]}
    refused(MINI, "padding: 'mask', must be", options=Options(None, 4, 4, padding="mask"))


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


def test_trained_on_after_import_exports_in_float32(weights: dict[str, Tensor]) -> None:
    """Half precision would round what was learned; rows that nobody uses stay as they were."""
    imported = import_checkpoint(MINI, options=OPTIONS)
    with torch.no_grad():
        imported.part.get_parameter("embedding.table").add_(1e-5)
    made = export_part(imported.part, imported.card, imported.unused)  # type: ignore[arg-type]
    table = made.tensors["token_emb.word_embeddings.weight"]
    old = weights["token_emb.word_embeddings.weight"].float()
    assert table.dtype == torch.float32
    changed = (table != old).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [*range(1024), 1100, 2024]


def grown(**changes: Any) -> mk.Mage:
    """A model of ours that the published layout can hold."""
    settings = {"channels": 3, "base_channels": 32, "norm_groups": 32, **changes}
    return build.mage(build.vqgan(**settings)).eval()


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
        (lambda: grown(norm_groups=16), "tokenizer.norm_groups is 16, reading would make it 32"),
        (lambda: build.mage(mk.Patches(image_size=(16, 16), channels=3, patch=4)), "tokenizer is Patches"),
        (lambda: build.mage(build.vqgan(base_channels=32, norm_groups=32), decoder=mk.LinearDecoder(32, 16, dim=24),
                            drop=0.0), "decoder is LinearDecoder"),
        (lambda: build.mage(build.vqgan(base_channels=32, norm_groups=32), padding=mk.ClassTokenPadding(
            replace_seen=False)), "padding.replace_seen is False"),
        (lambda: build.mage(build.vqgan(base_channels=32, norm_groups=32), embedding=mk.EmbeddingConfig(norm=False)),
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
