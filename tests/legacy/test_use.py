"""From a published file to images, classes, recipes and further training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mage_kit as mk
from mage_kit.base.manifest import MANIFEST_FILE, FileWarning
from mage_kit.legacy import Options, import_checkpoint
from tests import build
from tests.legacy.files import FINETUNED, HEADS, MINI, Run, same_tokens
from tests.parity.recording import DATA


def test_from_file_to_images_and_classes(tmp_path: Path, run: Run) -> None:
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
        (("eval", "probe-fast", MINI), "is a file, must be a folder"),
        (("classify", tmp_path / "mage", tmp_path / "two.png"), "holds a model"),
        (("classify", tmp_path / "classes", MINI), "cannot be decoded"),
        (("classify", tmp_path / "classes", tmp_path / "two.png", "--top", 11), "number of classes (10)"),
        (("convert", MINI, "--out", tmp_path / "mage", *HEADS), "is not empty"),
        (("convert", MINI, "--out", tmp_path / "new", "--image-size", "0x5"), "image-size: '0x5'"),
    ):
        code, _, error = run(*command)
        assert code == 2 and words in error, command
    assert run("convert", MINI, "--out", tmp_path / "mage", *HEADS, "--overwrite")[0] == 0


def test_another_image_size_is_told_in_a_line(tmp_path: Path, run: Run) -> None:
    code, out, _ = run("convert", MINI, "--out", tmp_path / "mage", *HEADS, "--image-size", "512x256")
    (line,) = (line for line in out.splitlines() if "image size" in line)
    assert code == 0 and "512x256" in line and "positions of 16x16 tokens resized to 32x16 (bicubic)" in line
    assert mk.load(tmp_path / "mage").spec.grid == mk.TokenGrid(32, 16)
    assert mk.load(MINI, encoder_heads=4, decoder_heads=4, image_size=(512, 256)).spec.grid == mk.TokenGrid(32, 16)


def test_a_card_tells_where_weights_came_from(tmp_path: Path) -> None:
    import hashlib
    import json

    from mage_kit.store.convert import convert

    convert(MINI, tmp_path / "mage", encoder_heads=4, decoder_heads=4)
    card = json.loads((tmp_path / "mage" / "card.json").read_text())
    assert card["sources"][0]["sha256"] == hashlib.sha256(MINI.read_bytes()).hexdigest()
    assert {item["name"] for item in card["unused"]} == load_file(tmp_path / "mage" / "legacy.safetensors").keys()
    assert card["values"] == card["values_loaded"] + sum(item["values"] for item in card["unused"])
    model = mk.load(tmp_path / "mage")
    assert mk.check(mk.Recipe.load(tmp_path / "mage" / "recipe.json")).model.spec == model.spec
    same_tokens(model)


def test_a_converted_tokenizer_serves_a_recipe(tmp_path: Path) -> None:
    """`tokenizer.weights` takes the folder, whatever the recipe says of the tokenizer's training."""
    pytest.importorskip("lightning_fabric")
    from mage_kit.store.convert import convert
    from mage_kit.training.weight_folders import WeightFolder, fill_tokenizer

    convert(DATA / "maskgit_jax" / "maskgit_tokenizer_mini.msgpack", tmp_path / "tokenizer", image_size=(64, 64))
    stated = mk.TOKENIZERS.describe(mk.load_tokenizer(tmp_path / "tokenizer"), weights=str(tmp_path / "tokenizer"))
    recipe = mk.Recipe.load(Path(__file__).parents[2] / "recipes" / "mage_vitb.json").extended(
        tokenizer={**stated, "quantizer": {**stated["quantizer"], "kind": "ema", "decay": 0.9}}
    )

    def fill(tokenizer: mk.Tokenizer, recipe: mk.Recipe, folder: Path) -> None:
        fill_tokenizer(tokenizer, recipe.tokenizer.model_dump(mode="json"), WeightFolder(folder), recipe.name)

    tokenizer = recipe.build_tokenizer()
    fill(tokenizer, recipe, tmp_path / "tokenizer")
    expected = load_file(DATA / "maskgit_jax" / "expected.safetensors")
    assert torch.equal(tokenizer.encode(expected["images_uint8"].float() / 255), expected["token_ids"])
    wrong = recipe.extended(tokenizer={"kind": "taming", "weights": str(tmp_path / "tokenizer")})
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.kind: taming, the trained one has vqgan"):
        fill(wrong.build_tokenizer(), wrong, tmp_path / "tokenizer")
    with pytest.raises(mk.RecipeError, match="convert a checkpoint first"):
        fill(tokenizer, recipe, MINI)
    convert(MINI, tmp_path / "model", encoder_heads=4, decoder_heads=4)  # the tokenizer in a model's folder serves too
    inside = mk.load_tokenizer(tmp_path / "model")
    recipe = recipe.extended(tokenizer=mk.TOKENIZERS.describe(inside, weights=str(tmp_path / "model")))
    fill(tokenizer := recipe.build_tokenizer(), recipe, tmp_path / "model")
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
    assert isinstance(tokenizer, mk.VQGAN) and isinstance(tokenizer.quantize, mk.EMACodebook)
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
    there = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", read]
    done = subprocess.run(command, cwd=DATA, env=there, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "MyTokenizer", done.stderr
    away = subprocess.run(command, cwd=DATA, capture_output=True, text=True, check=False)
    assert f"it came from '{tmp_path}' when this was written" in away.stderr


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
    (tmp_path / "model" / MANIFEST_FILE).unlink()
    with pytest.warns(FileWarning, match="unverified"):
        mk.load(tmp_path / "model")
    tensors["tokenizer.quantize.other"] = torch.ones(3)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    with pytest.raises(mk.MageKitError, match=r"1 unexpected: tokenizer\.quantize\.other"):
        mk.load(tmp_path / "model")
