"""Runs that go on beyond their end, and runs that begin from a whole model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.console import PlainConsole
from mage_kit.base.progress import Reporter
from mage_kit.cli.app import app
from mage_kit.training.metrics import read_metrics
from tests.training.test_recovery import same_weights
from tests.training.test_training import curve, small

SILENT = Reporter.silent()
CONSTANT = ("training.warmup_epochs=0", "training.base_lr=1e-3", "training.min_lr=5e-4")  # at 128 images a step


class Lines(Reporter):
    """A reporter that remembers what it is told."""

    def __init__(self) -> None:
        super().__init__(PlainConsole(quiet=True))
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs at a constant rate."""
    home = tmp_path_factory.mktemp("extended")
    return mk.train(small(*CONSTANT, "training.ema=0.9"), home / "two", reporter=SILENT)


def test_an_extension_equals_a_run_of_that_length(two: Path, tmp_path: Path) -> None:
    longer = small(*CONSTANT, "training.ema=0.9", "training.epochs=3")
    unbroken = mk.train(longer, tmp_path / "unbroken", reporter=SILENT)
    rates = {record["lr"] for record in read_metrics(unbroken, "model")}
    assert rates == {5e-4}, "the rate is constant"
    before = load_file(two / "model.safetensors")
    (two / "eval").mkdir()
    (two / "eval" / "knn.json").write_text("{}")
    said = Lines()
    mk.train(longer, two, extend=True, reporter=said)
    words = next(line for line in said.lines if line.startswith("extended"))
    assert "from step 28 to 42: the learning rates of the 7 steps in its log are those of so long a run" in words
    assert "those of so long a run" in json.loads((two / "decisions.json").read_text())["model_extension_42"]["reason"]
    assert same_weights(two, unbroken) and same_weights(two, unbroken, "ema.safetensors")
    assert curve(two) == curve(unbroken)
    assert json.loads((two / "recipe.json").read_text())["training"]["epochs"] == 3
    earlier = two / "earlier" / "step-00000028"
    shorter = load_file(earlier / "model.safetensors")
    assert all(torch.equal(shorter[name], before[name]) for name in before), "the shorter run's model stays"
    mk.load(earlier), mk.load(earlier, weights="ema")
    assert (earlier / "eval" / "knn.json").is_file() and not (two / "eval").exists(), "measured of the shorter run"


def test_another_rate_is_said_to_differ(tmp_path: Path) -> None:
    out = mk.train(small("training.warmup_epochs=0", "training.epochs=1"), tmp_path / "run", reporter=SILENT)
    said = Lines()
    mk.train(small("training.warmup_epochs=0", "training.epochs=2"), out, extend=True, reporter=said)
    words = next(line for line in said.lines if "extended" in line)
    assert "the learning rate of step" in words and "is not that of so long a run from the start" in words
    assert [record["step"] for record in read_metrics(out, "model")][-1] == 28


def test_what_may_not_be_extended(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(mk.MageKitError, match=r"--extend .*: no run there .* without --extend"):
        mk.train(small(), out, extend=True, reporter=SILENT)
    mk.train(small("training.epochs=1"), out, reporter=SILENT)
    model = (out / "model.safetensors").read_bytes()
    for change, says in (
        ("model.encoder.dim=64", r"\$\.model\.encoder\.dim: differs"),
        ("training.batch=64", r"\$\.training\.batch: differs"),
        ("tokenizer_training.steps=30", r"\$\.tokenizer_training\.steps: differs"),
        ("training.epochs=0.5", "7 steps, 14 are done already"),
        ("training.base_lr=1e-5", "14 steps, 14 are done already"),
    ):
        epochs = [] if change.startswith("training.epochs") else ["training.epochs=1"]
        with pytest.raises(mk.MageKitError, match=says):
            mk.train(small(*epochs, change), out, extend=True, reporter=SILENT)
    assert (out / "model.safetensors").read_bytes() == model and not (out / "earlier").exists()
    done = CliRunner().invoke(app, ["train", str(out / "recipe.json"), "--out", str(out), "--extend"])
    assert done.exit_code == 0 and "is complete; nothing to do" in done.output
    newest = max((out / "checkpoints" / "model").iterdir())
    whole = (newest / "optimizer.safetensors").read_bytes()
    (newest / "optimizer.safetensors").write_bytes(whole[:-1] + b"x")
    with pytest.raises(mk.MageKitError, match=r"--extend .*is not what was written.*remove that checkpoint"):
        mk.train(small("training.epochs=2"), out, extend=True, reporter=SILENT)
    assert (out / "model.safetensors").read_bytes() == model and not (out / "earlier").exists()
    for checkpoint in (out / "checkpoints" / "model").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    with pytest.raises(mk.MageKitError, match="there is no checkpoint of the model to go on from"):
        mk.train(small("training.epochs=2"), out, extend=True, reporter=SILENT)


def test_killed_while_it_is_extended(tmp_path: Path) -> None:
    """Between the model's move and the new recipe, and after a few steps more: either goes on."""
    from mage_kit.training import folder

    out, longer = tmp_path / "run", small(*CONSTANT, "training.epochs=2")
    mk.train(small(*CONSTANT, "training.epochs=1"), out, reporter=SILENT)
    write = folder.write_text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "write_text", lambda *words, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mk.train(longer, out, extend=True, reporter=SILENT)
    assert folder.write_text is write and not (out / "model.safetensors").exists()

    def stop(event: mk.StepEvent) -> None:
        if event.step == 22:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        mk.train(longer, out, extend=True, on_step=stop, reporter=SILENT)
    mk.train(longer, out, resume=True, reporter=SILENT)
    unbroken = mk.train(longer, tmp_path / "unbroken", reporter=SILENT)
    assert same_weights(out, unbroken) and (out / "earlier" / "step-00000014" / "model.safetensors").is_file()


def test_a_tokenizer_alone_is_extended(tmp_path: Path) -> None:
    alone = ("model=null", "tokenizer_training=null", 'training={"kind": "reconstruct", "steps": 20, "batch": 32}')
    out = mk.train(small(*alone), tmp_path / "run", reporter=SILENT)
    before = (out / "tokenizer" / "tokenizer.safetensors").read_bytes()
    mk.train(small(*alone, "training.steps=30"), out, extend=True, reporter=SILENT)
    assert [record["step"] for record in read_metrics(out)][-1] == 30
    earlier = out / "earlier" / "step-00000020" / "tokenizer"
    assert (earlier / "tokenizer.safetensors").read_bytes() == before
    assert (out / "tokenizer" / "tokenizer.safetensors").read_bytes() != before
    mk.load_tokenizer(earlier), mk.load_tokenizer(out)


def test_a_run_begins_from_a_whole_model(two: Path, tmp_path: Path) -> None:
    """Decoder and heads too; what is new begins from the seed, and every tensor is accounted for."""
    start = f'pretrained={{"weights": "{two}", "parts": "all", "freeze": false}}'
    recipe = small(f'tokenizer.weights="{two}"', start, "training.epochs=0.1")
    said, steps = Lines(), list[int]()
    mk.train(recipe, tmp_path / "same", reporter=said, on_step=lambda event: steps.append(event.step))
    words = next(line for line in said.lines if line.startswith("pretrained"))
    parts = {name.partition(".")[0] for name in load_file(two / "model.safetensors")} - {"tokenizer"}
    assert parts >= {"encoder", "decoder", "embedding", "heads"}
    assert all(f"{part} (" in words for part in parts) and "from the seed" not in words and "left" not in words
    contrast = 'model.losses=[{"kind": "masked_cross_entropy", "weight": 1.0}, {"kind": "info_nce", "weight": 0.1}]'
    more = small(f'tokenizer.weights="{two}"', start, "training.epochs=0.1", contrast, "data.augment.views=2")
    mk.train(more, tmp_path / "more", reporter=said)
    assert "from the seed begin losses (" in next(line for line in said.lines[::-1] if line.startswith("pretrained"))
    for change, says in (
        ("model.decoder.dim=16", r"\$\.model\.decoder\.dim: 16, the pretrained one has 32"),
        ("model.decoder.heads=4", r"\$\.model\.decoder\.heads: 4, the pretrained one has 2"),  # of the same shapes
    ):
        with pytest.raises(mk.RecipeError, match=says):
            mk.train(small(f'tokenizer.weights="{two}"', start, change), tmp_path / "other", reporter=SILENT)
    assert not (tmp_path / "other").exists()
    mask = 'model.padding={"kind": "mask_token"}'
    mk.train(small(f'tokenizer.weights="{two}"', start, mask, "training.epochs=0.1"), tmp_path / "mask", reporter=said)
    words = next(line for line in said.lines[::-1] if line.startswith("pretrained"))
    assert "from the seed begin padding (1 tensors)" in words, words


def test_a_whole_model_at_another_size(two: Path, tmp_path: Path) -> None:
    start = f'pretrained={{"weights": "{two}", "parts": "all", "freeze": false}}'
    recipe = small(f'tokenizer.weights="{two}"', start, "tokenizer.image_size=[48, 48]", "training.epochs=0.1")
    said = Lines()
    mk.train(recipe, tmp_path / "large", reporter=said)
    assert "pretrained model: positions of 4x4 tokens resized to 6x6 (bicubic)" in said.lines
