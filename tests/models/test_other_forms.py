"""What can be asked of a run whose encoder sees no codes, whose loss predicts another tokenizer's, or without model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.cli.app import app
from mage_kit.report import write_report
from tests.training.test_lone_stages import alone
from tests.training.test_training import small

SHORT = ("training.epochs=0.5", "tokenizer_training=null")
PATCHES = {"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 8}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.train(alone(steps=30), tmp_path_factory.mktemp("runs") / "tokenizer")


@pytest.fixture(scope="module")
def features(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Paper, supplement, Table 6: features in, codes predicted."""
    recipe = small(*SHORT, f'tokenizer.weights="{tokenizer}"', "model.input=features")
    return mk.train(recipe, tmp_path_factory.mktemp("runs") / "features")


@pytest.fixture(scope="module")
def patches(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BEiT's form: patches in, codes of a tokenizer predicted."""
    target = {**small().tokenizer.model_dump(mode="json"), "weights": str(tokenizer)}
    losses = [{"kind": "masked_cross_entropy", "weight": 1.0, "stream": "codes"}]
    recipe = small(
        *SHORT,
        f"tokenizer={json.dumps(PATCHES)}",
        f"model.targets={json.dumps({'codes': target})}",
        f"model.losses={json.dumps(losses)}",
    )
    return mk.train(recipe, tmp_path_factory.mktemp("runs") / "patches")


def page_of(run: Path, tmp_path: Path) -> tuple[str, list[str]]:
    page = write_report(run, tmp_path / f"{run.name}.html", reporter=Reporter.silent()).read_text()
    return page, re.findall(r"<h2>(.*?)</h2>", page)


def test_reports(tokenizer: Path, features: Path, patches: Path, tmp_path: Path) -> None:
    page, headings = page_of(tokenizer, tmp_path)
    assert headings == ["Curves", "Reconstruction", "Codebook", "Settings and versions"]
    assert "complete: step 30" in page and re.search(r"given back below: \d+\.\d dB on these 8", page)
    assert "Tokenizer: squared error" in page and "Codes by frequency" in page
    page, headings = page_of(features, tmp_path)
    assert headings == ["Curves", "Figures", "Samples", "Codebook", "Masks", "Settings and versions"]
    assert "needs an encoder that sees tokens" in page
    page, headings = page_of(patches, tmp_path)
    assert "Reconstruction" not in headings and "Codebook" not in headings and "Samples" in headings
    with pytest.raises(mk.MageKitError, match="a tokenizer has none"):
        write_report(tokenizer, tmp_path / "beside.html", mae=patches, reporter=Reporter.silent())


def test_a_tokenizer_that_is_still_in_training_has_a_page(tmp_path: Path) -> None:
    cut = mk.train(alone(), tmp_path / "cut", until=7)
    page, headings = page_of(cut, tmp_path)
    assert "training has not ended: step 7" in page and headings == ["Curves", "Settings and versions"]


def test_the_published_probe_sees_what_the_encoder_saw(features: Path) -> None:
    settings = ("--set", "training.epochs=1", "--set", "training.warmup_epochs=0", "--set", "training.batch=256")
    done = CliRunner().invoke(app, ["eval", "probe", str(features), *settings])
    assert done.exit_code == 0, done.output
    probe = mk.load_classifier(features / "eval" / "probe")
    assert probe.input == "features" and probe.spec.width == 16 and not probe.spec.discrete
    model = mk.load(features)
    assert torch.equal(probe.embedding.projection.weight, model.embedding.projection.weight)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(probe.see(images), model.see(images))
    assert mk.Recipe.of(probe).model.get("input") == "features"


def test_the_published_probe_refuses_another_tokenizers_stream(tokenizer: Path, tmp_path: Path) -> None:
    target = {**small().tokenizer.model_dump(mode="json"), "weights": str(tokenizer)}
    recipe = small(
        *SHORT,
        f"tokenizer={json.dumps(PATCHES)}",
        f"model.targets={json.dumps({'codes': target})}",
        'model.losses=[{"kind": "masked_cross_entropy", "weight": 1.0, "stream": "codes"}]',
        "model.input=codes",
    )
    run = mk.train(recipe, tmp_path / "run")
    done = CliRunner().invoke(app, ["eval", "probe", str(run)])
    assert isinstance(done.exception, mk.MageKitError), done.output
    assert "$.model.input: 'codes', the encoder sees another tokenizer's stream" in str(done.exception)
    assert mk.export(run, tmp_path / "encoder.safetensors", part="encoder").layout == "plain_vit"
    from safetensors import safe_open

    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        about = json.loads(file.metadata()["mage_kit"])
    assert about["tokenizer"]["kind"] == "vqgan" and about["stream"] == "tokens"


def test_what_does_not_fit_is_named(features: Path, patches: Path, tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError, match="ViTEncoder over VQGAN's 'features', must be a ViT over codes"):
        mk.export(features, tmp_path / "encoder.safetensors", part="encoder")
    from mage_kit.editing import predict_pixels

    with pytest.raises(mk.PartsError, match="predict_pixels needs a model that predicts the values"):
        predict_pixels(mk.load(patches), Image.new("L", (32, 32)))
    classifier = {"kind": "classifier", "classes": 10, "input": "pixels", "encoder": {"kind": "vit", "dim": 48}}
    with pytest.raises(mk.RecipeError, match=r"\$\.model.*input: 'pixels', must be one of tokens, features"):
        mk.check(small().extended(model=classifier, training=None))
