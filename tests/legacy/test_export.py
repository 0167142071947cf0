"""Back to the published layout, and the encoder for other people's code."""

from __future__ import annotations

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
from mage_kit.layers.embedding import resize_positions
from mage_kit.legacy import Options, export_part, import_checkpoint
from tests import build
from tests.legacy.files import FINETUNED, HEADS, MINI, OPTIONS, TAMING, Run, same_tokens
from tests.parity.recording import DATA


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
def test_import_then_export_is_bit_identical(source: Path, arguments: list[Any], tmp_path: Path, run: Run) -> None:
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


def test_parts_and_formats(tmp_path: Path, weights: dict[str, Tensor], run: Run) -> None:
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


def test_what_was_kept_beside_must_be_whole(tmp_path: Path, run: Run) -> None:
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


def test_links_are_followed_and_stay(tmp_path: Path, run: Run) -> None:
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
    made = export_part(imported.part, imported.origin)
    assert made.tensors["norm.bias"].dtype == torch.float32


def test_trained_on_after_import_exports_in_float32(weights: dict[str, Tensor]) -> None:
    """Half precision would round what was learned; rows that nobody uses stay as they were."""
    imported = import_checkpoint(MINI, options=OPTIONS)
    with torch.no_grad():
        imported.part.get_parameter("embedding.table").add_(1e-5)
    made = export_part(imported.part, imported.origin)
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
    from mage_kit.store.export import export

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
        (lambda: build.mage(mk.Patches(image_size=(16, 16), channels=3, patch=4)), "padding is ClassTokenPadding"),
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


def test_the_encoder_as_a_plain_vit(tmp_path: Path, run: Run) -> None:
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


def test_positions_for_another_grid(tmp_path: Path, run: Run) -> None:
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
