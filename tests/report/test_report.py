"""The report: one page that needs nothing else, and says what it could not show."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.errors import BrokenImageError
from mage_kit.base.manifest import list_files
from mage_kit.base.progress import Reporter
from mage_kit.cli import app
from mage_kit.editing import predict_pixels
from mage_kit.report import write_report
from mage_kit.report.charts import Chart
from mage_kit.training.train import train
from tests import build
from tests.training.test_training import small

PIXELS = (
    'tokenizer={"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 8}',
    'model.losses=[{"kind": "masked_mse", "weight": 1.0}]',
    "model.padding=mask_token",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=0.5", "training.ema=0.9"), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=0.5", *PIXELS), tmp_path_factory.mktemp("runs") / "pixels")


def written(run: Path, tmp_path: Path, **options: Any) -> str:
    return write_report(run, tmp_path / "page.html", reporter=Reporter.silent(), **options).read_text()


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_report_shows_the_run_and_needs_nothing_else(run: Path, tmp_path: Path) -> None:
    page = written(run, tmp_path)
    wanted = [
        "Curves",
        "Figures",
        "Samples",
        "Reconstruction",
        "Inpainting",
        "Codebook",
        "Masks",
        "Settings and versions",
    ]
    assert headings(page) == wanted
    for title in ("Loss by mask ratio", "Learning rate", "Images a second", "Decoding schedule", "Codes by frequency"):
        assert f"<figcaption>{title}</figcaption>" in page
    assert "raw weights, 12 steps" in page and "EMA weights, 12 steps" in page and "chance, ln K" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources), "something would be loaded"
    assert "<script" not in page and "@import" not in page and "url(http" not in page
    for source in sources:
        if source.startswith("data:image/png"):
            Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
    assert json.loads(mk.Recipe.load(run / "recipe.json").to_json())["name"] in page


def test_identifiers_within_the_page_are_each_ones_own(run: Path, tmp_path: Path) -> None:
    """Charts stand in one document: a clip path or marker of one must not be another's."""
    page = written(run, tmp_path)
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(names)


def test_text_from_a_run_is_text_on_the_page(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(run, copied)
    (copied / "eval").mkdir()
    row = {"top1": 0.5, "by_k": {"20": 0.5123}}
    held = {"measure": "knn", "rows": {"mean": row}, "protocol": "<script>alert(1)</script>"}
    (copied / "eval" / "knn.json").write_text(json.dumps(held))
    page = written(copied, tmp_path)
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "0.5123" in page
    assert "<b>" not in Chart("a <b>", '<svg width="1" height="1"></svg>').inline


def test_a_run_that_has_not_ended_has_a_page_of_what_there_is(tmp_path: Path) -> None:
    out = train(small(), tmp_path / "run", until=9)
    page = written(out, tmp_path)
    assert "training has not ended" in page and headings(page) == [
        "Curves",
        "Figures",
        "Masks",
        "Settings and versions",
    ]


def test_data_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(run, copied)
    recipe = json.loads((copied / "recipe.json").read_text())
    recipe["data"] = {"kind": "image_folder", "path": str(tmp_path / "gone"), "augment": recipe["data"]["augment"]}
    (copied / "recipe.json").write_text(json.dumps(recipe))
    list_files(copied / "recipe.json")
    page = written(copied, tmp_path)
    assert "None: the run&#39;s data cannot be opened here" in page and "Codebook" not in headings(page)


def test_broken_images_are_passed_over(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = mk.Digits.still

    def broken(self: mk.Digits, index: int) -> mk.Sample:
        if index % 7 == 0:
            raise BrokenImageError(str(index), "broken")
        return still(self, index)

    monkeypatch.setattr(mk.Digits, "still", broken)
    page = written(run, tmp_path)
    assert "are broken." in page and "Reconstruction" in headings(page)


def test_another_runs_reconstructions_stand_beside(run: Path, pixels: Path, tmp_path: Path) -> None:
    page = written(run, tmp_path, mae=pixels)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert sum("50% masked" in caption for caption in captions) == 2
    assert any("where it predicts neither" in caption for caption in captions)
    alone = write_report(pixels, tmp_path / "pixels.html", reporter=Reporter.silent()).read_text()
    assert "generation needs codes" in alone and "Codebook" not in headings(alone)


def test_a_report_is_not_overwritten_unasked(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    target.write_text("mine")
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(target)])
    assert isinstance(done.exception, mk.MageKitError) and "exists" in str(done.exception)
    assert target.read_text() == "mine"
    assert CliRunner().invoke(app, ["report", str(run), "--out", str(target), "--overwrite"]).exit_code == 0
    for place in (tmp_path / "nowhere", target):
        done = CliRunner().invoke(app, ["report", str(place), "--out", str(tmp_path / "other.html")])
        assert isinstance(done.exception, mk.MageKitError)


def test_masked_patches_are_predicted_and_others_stay() -> None:
    model = build.mage(mk.Patches(image_size=(16, 16), channels=1, patch=4)).train()
    image = Image.effect_noise((16, 16), 60)
    original, left, filled = predict_pixels(model, image, 0.5, seed=1)
    assert original.tobytes() == image.tobytes() and model.training
    grey = [
        left.crop((x, y, x + 4, y + 4)).tobytes() == bytes([128]) * 16 for y in range(0, 16, 4) for x in range(0, 16, 4)
    ]
    assert sum(grey) == 8
    for place, masked in enumerate(grey):
        box = (place % 4 * 4, place // 4 * 4, place % 4 * 4 + 4, place // 4 * 4 + 4)
        assert (filled.crop(box).tobytes() == original.crop(box).tobytes()) != masked
    with pytest.raises(ValueError, match="images: "):
        predict_pixels(model, image.resize((20, 20)), 0.5)
    with pytest.raises(mk.PartsError, match="predicts the values of its tokens; reconstruct is for one that draws"):
        predict_pixels(build.mage(), image, 0.5)
