"""The evaluation commands on a small run: results on disk, nothing replaced unasked, honest names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.cli import app
from mage_kit.evaluation.published_probe import departures, probe_recipe
from mage_kit.evaluation.subject import open_subject
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.report import write_report
from mage_kit.studies.results import gather
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.train import train
from tests.evaluation.conftest import CHANGES
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def result(run: Path, name: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((run / "eval" / f"{name}.json").read_text())
    return held


def folders(root: Path, classes: int = 2, images: int = 8) -> Path:
    """Class folders of pictures that differ by class."""
    random = np.random.default_rng(0)
    for number in range(classes):
        place = root / f"class{number}"
        place.mkdir(parents=True)
        for index in range(images):
            array = random.integers(0, 60, (32, 32)) + 180 * (np.arange(32) // 16 == number % 2)
            Image.fromarray(array.astype(np.uint8)).save(place / f"{index}.png")
    return root


def test_every_measure_of_a_run(run: Path, tmp_path: Path) -> None:
    """One run: each command, its result, its plot, the table of all, the report with them."""
    done = call("eval", "knn", run, "--source", "mean", "--source", "class@1+norm")
    assert done.exit_code == 0, done.output
    knn = result(run, "knn")
    assert set(knn["rows"]) == {"mean", "class@1+norm", "raw pixels", "untrained encoder"}
    assert (
        knn["train_images"] + knn["test_images"] == 200
        and 30 <= knn["test_images"] <= 40
        and len(knn["weights_sha256"]) == 64
    )
    assert "exists; give --overwrite" in str(call("eval", "knn", run).exception)
    assert call("eval", "blocks", run).exit_code == 0 and set(result(run, "blocks")["rows"]) == {
        "block 1",
        "block 2",
        "raw pixels",
        "untrained encoder, block 1",
        "untrained encoder, block 2",
    }
    shots = call("eval", "fewshot", run, "--shots", "5,1", "--draws", 2, "--no-baselines")
    assert shots.exit_code == 0 and list(result(run, "fewshot")["rows"]["mean"]["by_shots"]) == ["1", "5"]
    assert (run / "eval" / "fewshot.png").is_file() and (run / "eval" / "blocks.png").is_file()
    fast = call("eval", "probe-fast", run)
    assert fast.exit_code == 0 and {"mean", "untrained encoder", "raw pixels"} == set(result(run, "probe-fast")["rows"])
    published = call("eval", "probe", run, "--set", "training.epochs=2", "--set", "training.warmup_epochs=1")
    assert published.exit_code == 0, published.output
    made = result(run, "probe")
    assert not made["as_published"] and made["protocol"].startswith("NOT as published: epochs 2.0 (published 90.0), ")
    assert ", batch 32 (published 4096), " in made["protocol"]
    peak = made["recipe"]["training"]["base_lr"] * made["recipe"]["training"]["batch"] / 256
    assert peak == pytest.approx(0.1 * 4096 / 256), "the largest rate is the published one"
    other = folders(tmp_path / "one"), folders(tmp_path / "two", classes=3)
    assert call("eval", "transfer", run, *other, "--shots", 3, "--draws", 2).exit_code == 0
    assert [row["classes"] for row in result(run, "transfer")["rows"].values()] == [2, 3]
    lines = gather([run])
    assert {line.measure for line in lines} == {"knn", "blocks", "fewshot", "probe-fast", "probe", "transfer"}
    rows = {(line.measure, line.row): line for line in lines}
    assert {line.name for line in lines if line.measure == "fewshot"} == {"top1, 1 a class", "top1, 5 a class"}
    assert rows["fewshot", "mean"].std is not None and ("transfer", "two") in rows
    assert all(line.paper is None for line in lines), "no figure of the paper's stands beside digits"
    table = call("results", run, "--out", tmp_path / "results.json")
    assert table.exit_code == 0 and len(json.loads((tmp_path / "results.json").read_text())["results"]) == len(lines)
    page = write_report(run, tmp_path / "report.html", reporter=Reporter.silent()).read_text()
    for words in ("Linear probe, NOT as published", "Linear probe after each block", "Top-1 from a few labels"):
        assert words in page, words


def test_a_fast_probe_on_a_folder_of_ones_own(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("train", "val"):
        folders(data / part)
    done = call("eval", "probe-fast", run, "--data", data, "--overwrite", "--no-baselines")
    assert done.exit_code == 0, done.output
    held = result(run, "probe-fast")
    assert held["data"].endswith("train/ and val/; 16 of 16 test images are training images too, pixel for pixel")
    assert set(held["data_sha256"]) == {"train", "test"} and held["rows"]["mean"]["top1"] > 0.9
    assert "not the published protocol" in held["protocol"]


def test_a_classifier_is_measured_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    done = call(
        "train", RECIPES / "finetune_digits.json", "--out", out, "--set", f"pretrained.weights={run}",
        *(word for change in _tuned(run) for word in ("--set", change)),
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    told = json.loads((out / "eval" / "accuracy.json").read_text())["rows"]["raw"]
    assert call("eval", "accuracy", out).exit_code == 0
    assert result(out, "accuracy-again")["rows"]["classifier"] == pytest.approx(told)
    digits = tmp_path / "digits"
    source = mk.Digits(image_size=(32, 32), channels=1, part="held_out")
    for number in range(10):
        (digits / str(number)).mkdir(parents=True)
    for index in range(len(source)):
        source.image(index).save(digits / str(source.label(index)) / f"{index}.png")
    assert call("eval", "accuracy", out, "--data", digits, "--overwrite").exit_code == 0
    again = result(out, "accuracy-again")["rows"]["classifier"]
    assert again["images"] == 200 and again["top1"] == pytest.approx(told["top1"], abs=0.03)
    assert again["top1"] > 0.2, "so that a class taken for its neighbour would show"
    shutil.rmtree(digits / "3")
    (digits / "4").rename(digits / "zero")
    assert "class 'zero' is none of the 10 that were learned ('0', '1', '2', ...)" in str(
        call("eval", "accuracy", out, "--data", digits, "--overwrite").exception
    )
    shutil.rmtree(digits / "zero")
    assert call("eval", "accuracy", out, "--data", digits, "--overwrite").exit_code == 0
    fewer = result(out, "accuracy-again")
    model, kept = mk.load_classifier(out), [index for index in range(200) if source.label(index) not in (3, 4)]
    views = torch.stack([torch.from_numpy(source.still(index).views[0]) for index in kept]).float() / 255
    with torch.no_grad():
        hits = model.logits(views).argmax(dim=1) == torch.tensor([source.label(index) for index in kept])
    assert fewer["test_images"] == len(kept) and fewer["classes_matched"] == "by name"
    assert fewer["rows"]["classifier"]["top1"] == pytest.approx(float(hits.float().mean()), abs=0.02), "found by name"
    page = write_report(out, tmp_path / "page.html", reporter=Reporter.silent()).read_text()
    for words in ("Accuracy on the validation images", "Accuracy, measured again", "Predictions", "taken for what"):
        assert words in page, words
    assert "class 'class0' is none of the 10 that were learned" in str(
        call("eval", "accuracy", out, "--data", folders(tmp_path / "x"), "--overwrite").exception
    )
    assert "holds a classifier" in str(call("eval", "knn", out).exception)


def _tuned(run: Path) -> list[str]:
    held = json.loads((run / "recipe.json").read_text())
    encoder = json.dumps({**held["model"]["encoder"], "dropout": 0.0})
    tokenizer = json.dumps({**held["tokenizer"], "weights": None})
    return [f"model.encoder={encoder}", f"tokenizer={tokenizer}", "training.epochs=1", "training.warmup_epochs=0"]


def test_the_mean_weights_are_probed_where_they_are_asked_for(tmp_path: Path) -> None:
    out = train(small(*CHANGES, "training.ema=0.5"), tmp_path / "run")
    quick = ("--set", "training.epochs=1", "--set", "training.warmup_epochs=0")
    assert call("eval", "probe", out, "--weights", "ema", *quick).exit_code == 0
    probed, mean = mk.load_classifier(out / "eval" / "probe"), mk.load(out, weights="ema")
    assert torch.equal(probed.encoder.blocks[0].attn.qkv.weight, mean.encoder.blocks[0].attn.qkv.weight)
    assert not torch.equal(probed.embedding.table, mk.load(out).embedding.table)
    assert result(out, "probe")["weights"] == "ema"
    assert "takes no such option" in str(call("eval", "probe-fast", out, "--weights", "ema").exception)


def test_what_cannot_be_measured_is_refused_before_anything_is(run: Path, tmp_path: Path) -> None:
    single = folders(tmp_path / "single", classes=1)
    assert "1 class, must have at least two" in str(call("eval", "knn", run, "--data", single, "--overwrite").exception)
    few, enough = folders(tmp_path / "few", images=6), folders(tmp_path / "enough", images=12)
    done = call("eval", "transfer", run, enough, few, "--shots", 8, "--overwrite")
    assert "few': shots: 8, class 'class0' has 5 training images, must be at most that" in str(done.exception)
    assert not list((run / "eval" / "features").glob("enough*")), "the last data set costs the first no work"
    assert "given twice" in str(call("eval", "transfer", run, enough, enough, "--shots", 2, "--overwrite").exception)
    done = call("eval", "fewshot", run, "--data", few, "--shots", "1,8", "--overwrite")
    assert "has 5 training images" in str(done.exception) and not list((run / "eval" / "features").glob("few*"))
    assert "must be whole numbers" in str(call("eval", "knn", run, "--k", "x", "--overwrite").exception)
    assert "--k: 0, Input should be greater than or equal to 1" in str(call("eval", "knn", run, "--k", "0").exception)
    assert "must be at most the processors" in str(call("eval", "knn", run, "--processes", 9999).exception)
    (run / "eval" / "odd.json").write_text('{"rows": 3}')
    assert "odd.json: holds no rows of a measure" in str(call("results", run).exception)
    (run / "eval" / "odd.json").unlink()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(run: Path, tmp_path: Path) -> None:
    """Neighbours from the features that two processes extracted, with raw pixels and the untrained encoder."""
    data, made = folders(tmp_path / "data", images=330), []  # 528 to learn from: three parts
    for count in (1, 2):
        command = [sys.executable, "-m", "mage_kit.cli", "eval", "knn", str(run), "--data", str(data), "--k", "3"]
        command += ["--overwrite", "--refresh", "--processes", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.count("k-NN") == 1, done.stderr
        made.append(result(run, "knn"))
    assert made[0] == made[1] and set(made[0]["rows"]) == {"mean", "raw pixels", "untrained encoder"}


def test_a_published_probe_that_was_begun_goes_on(run: Path) -> None:
    quick = ("--set", "training.epochs=1", "--set", "training.warmup_epochs=0", "--baseline")
    assert call("eval", "probe", run, "--overwrite", *quick).exit_code == 0
    whole = result(run, "probe")
    assert set(whole["rows"]) == {"features", "untrained encoder"}
    (run / "eval" / "probe.json").unlink()
    shutil.rmtree(run / "eval" / "probe-untrained")  # as if it had been killed between the two
    assert "--resume goes on with it, --overwrite starts over" in str(call("eval", "probe", run, *quick).exception)
    assert call("eval", "probe", run, "--resume", *quick).exit_code == 0
    assert result(run, "probe") == whole


def test_a_run_on_cached_tokens_is_measured_on_its_images(tmp_path: Path) -> None:
    recipe = small(*CHANGES)
    first = train(recipe, tmp_path / "first")
    cache = tokenize(small(*CHANGES, f'tokenizer.weights="{first}"'), tmp_path / "cache", crops=1)
    cached = on_tokens(small(*CHANGES, f'tokenizer.weights="{first}"'), cache)
    run = train(cached, tmp_path / "run")
    assert call("eval", "knn", run, "--no-baselines").exit_code == 0
    assert result(run, "knn")["data"].startswith("the run's own images") and result(run, "knn")["test_images"] > 30


def test_what_departs_from_the_published_probe_is_told(run: Path) -> None:
    subject = open_subject(run, reporter=Reporter.silent())

    def told(*changes: str) -> str:
        return ", ".join(departures(subject, probe_recipe(subject, run, changes)))

    assert "batch 32 (published 4096)" in told() and "crops of the run's own" in told()
    assert told("training.workers=3", "training.log_every=7") == told()
    for change in ("training.label_smoothing=0.1", "training.base_lr=9", "training.micro_batch=16", "training.clip=1"):
        assert change.split("=")[0].split(".")[1] in told(change), change
    done = call("eval", "probe", run, "--overwrite", "--set", "data.augment.flip=0.5")
    assert "images and weights are named by --data and --weights" in str(done.exception)
