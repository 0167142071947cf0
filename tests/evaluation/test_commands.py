"""The evaluation commands on a small run: results on disk, nothing replaced unasked, honest names."""

from __future__ import annotations

import json
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
from mage_kit.cli import app
from mage_kit.evaluation.tokenizer_audit import Audit, psnr, ssim, verdict
from mage_kit.jobs.results import gather
from mage_kit.progress import Reporter
from mage_kit.report import write_report
from mage_kit.training.run import train
from tests.test_recipe import RECIPES
from tests.test_training import small

CHANGES = (
    "training.epochs=1",
    "training.precision=float32",
    "kernels.attention=matmul",
    "data.part=held_out",
    "training.batch=50",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(*CHANGES), tmp_path_factory.mktemp("runs") / "run")


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
    assert call("eval", "blocks", run).exit_code == 0 and set(result(run, "blocks")["rows"]) == {"1", "2"}
    shots = call("eval", "fewshot", run, "--shots", "5,1", "--draws", 2, "--no-baselines")
    assert shots.exit_code == 0 and list(result(run, "fewshot")["rows"]["mean"]["by_shots"]) == ["1", "5"]
    assert (run / "eval" / "fewshot.png").is_file() and (run / "eval" / "blocks.png").is_file()
    fast = call("eval", "probe-fast", run)
    assert fast.exit_code == 0 and {"linear_probe", "untrained", "raw_pixels"} == set(result(run, "probe-fast")["rows"])
    published = call("eval", "probe", run, "--set", "training.epochs=2", "--set", "training.warmup_epochs=1")
    assert published.exit_code == 0, published.output
    made = result(run, "probe")
    assert not made["as_published"] and "epochs 2.0 (published 90.0)" in made["protocol"]
    peak = made["recipe"]["training"]["base_lr"] * made["recipe"]["training"]["batch"] / 256
    assert peak == pytest.approx(0.1 * 4096 / 256), "the largest rate is the published one"
    other = folders(tmp_path / "one"), folders(tmp_path / "two", classes=3)
    assert call("eval", "transfer", run, *other, "--shots", 3, "--draws", 2).exit_code == 0
    assert [row["classes"] for row in result(run, "transfer")["rows"].values()] == [2, 3]
    lines = gather([run])
    assert {line.measure for line in lines} == {"knn", "blocks", "fewshot", "probe-fast", "probe", "transfer"}
    rows = {(line.measure, line.row): line for line in lines}
    assert rows["fewshot", "mean, shots 1"].std is not None and ("transfer", "two features") in rows
    assert all(line.paper is None for line in lines), "no figure of the paper's stands beside digits"
    table = call("results", run, "--out", tmp_path / "results.json")
    assert table.exit_code == 0 and len(json.loads((tmp_path / "results.json").read_text())["results"]) == len(lines)
    page = write_report(run, tmp_path / "report.html", reporter=Reporter.silent()).read_text()
    for words in ("Linear probe, published protocol", "Linear probe after each block", "Top-1 from a few labels"):
        assert words in page, words


def test_a_fast_probe_on_a_folder_of_ones_own(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for part in ("train", "val"):
        folders(data / part)
    done = call("eval", "probe-fast", run, "--data", data, "--overwrite", "--no-baselines")
    assert done.exit_code == 0, done.output
    held = result(run, "probe-fast")
    assert held["data"].endswith("train/ and val/") and held["rows"]["mean"]["top1"] > 0.9
    assert "not the published protocol" in held["protocol"]


def test_a_classifier_is_measured_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    done = call(
        "train", RECIPES / "finetune_digits.json", "--out", out, "--set", f"pretrained.weights={run}",
        *(word for change in _tuned(run) for word in ("--set", change)),
    )  # fmt: skip
    assert done.exit_code == 0, done.exception
    told = json.loads((out / "eval" / "accuracy.json").read_text())["raw"]
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
    assert "has 2 classes, the classifier 10" in str(
        call("eval", "accuracy", out, "--data", folders(tmp_path / "x"), "--overwrite").exception
    )
    assert "holds a classifier" in str(call("eval", "knn", out).exception)


def _tuned(run: Path) -> list[str]:
    held = json.loads((run / "recipe.json").read_text())
    encoder = json.dumps({**held["model"]["encoder"], "dropout": 0.0})
    tokenizer = json.dumps({**held["tokenizer"], "weights": None})
    return [f"classifier.encoder={encoder}", f"tokenizer={tokenizer}", "training.epochs=1", "training.warmup_epochs=0"]


# -- distances ---------------------------------------------------------------------------------------------------


class Means(torch.nn.Module):
    """Features that follow the picture: its means over a 3 x 3 grid."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1) / 255


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("networks") / "means.pt"
    torch.jit.trace(Means(), torch.rand(2, 3, 32, 32)).save(str(file))
    return file


def test_distances_from_the_command_line(run: Path, network: Path, tmp_path: Path) -> None:
    real, kept = folders(tmp_path / "real"), tmp_path / "real.safetensors"
    size = ("--width", 32, "--height", 32, "--grey", "--side", 0)
    assert "there is no FID" in str(call("eval", "reference", real, "--out", kept, *size).exception)
    assert "there is no FID" in str(call("eval", "fid", run).exception)
    assert call("eval", "reference", real, "--out", kept, "--extractor", network, *size).exit_code == 0
    assert "exists; choose another" in str(call("eval", "reference", real, "--out", kept, *size).exception)
    told = ("--extractor", network, "--side", 0)
    assert "--reference: none given" in str(call("eval", "fid", run, *told).exception)
    done = call("eval", "fid", run, "--reference", kept, *told, "-n", 12, "--steps", 2)
    assert done.exit_code == 0 and "gFID (SMOKE FIGURE of 12 images" in done.output.replace("\n", " "), done.output
    held = result(run, "fid")
    assert held["decoding"]["steps"] == 2 and held["reference"]["name"] == "real" and not held["comparable"]
    assert "FID" not in done.output.replace("gFID", ""), "never a bare FID"
    done = call("eval", "rfid", run, "--data", real, *told)
    assert done.exit_code == 0 and result(run, "rfid")["name"].startswith("rFID (SMOKE FIGURE")


def test_two_processes_measure_what_one_does(run: Path, network: Path, tmp_path: Path) -> None:
    kept = tmp_path / "real.safetensors"
    size = ("--width", 32, "--height", 32, "--grey", "--side", 0)
    folders(tmp_path / "real", images=12)
    assert call("eval", "reference", tmp_path / "real", "--out", kept, "--extractor", network, *size).exit_code == 0
    made = []
    for count in (1, 2):
        command = [
            sys.executable,
            "-m",
            "mage_kit.cli",
            "eval",
            "fid",
            str(run),
            "--reference",
            str(kept),
            "--overwrite",
        ]
        command += ["--extractor", str(network), "--side", "0", "-n", "22", "--batch", "4", "--steps", "2"]
        done = subprocess.run([*command, "--processes", str(count)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("gFID") == 1, "one process speaks"
        made.append(result(run, "fid"))
    one, two = made
    first, second = one["rows"]["images"], two["rows"]["images"]
    assert first["frechet"] == pytest.approx(second["frechet"], rel=1e-6) and one["duplicates"] == two["duplicates"]
    assert (first["precision"], first["recall"]) == (second["precision"], second["recall"])
    assert first["kid"] == pytest.approx(second["kid"], rel=1e-6), "in the images' order, whoever made them"


# -- the audit ---------------------------------------------------------------------------------------------------


def test_an_audit_says_what_a_tokenizer_is_worth(run: Path, tmp_path: Path) -> None:
    data = folders(tmp_path / "data")
    (data / "class0" / "broken.png").write_bytes(b"no image")
    done = call("audit", run, data, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    held = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert held["images"] == 16 and held["broken"] == 1 and len(held["worst"]) == 8
    assert held["verdict"] in " ".join(done.output.split()) and "these tokens" in held["verdict"].lower()
    scores = list(held["worst"].values())
    assert scores == sorted(scores) and scores[0] <= held["psnr"]
    assert Image.open(tmp_path / "out" / "worst.png").size[0] >= 8 * 32
    assert "is not empty" in str(call("audit", run, data, "-o", tmp_path / "out").exception)
    assert call("audit", run, data, "-o", tmp_path / "out", "--overwrite").exit_code == 0
    tokenizer = mk.load_tokenizer(run)
    image = torch.from_numpy(np.array(Image.open(next((data / "class1").iterdir()))))[None, None]
    again = tokenizer.decode(tokenizer.encode(image.float() / 255)).clamp(0, 1)
    pixels = (again * 255).byte()
    by_hand = -10 * np.log10(float((pixels / 255 - image / 255).square().mean()))
    assert float(psnr(image, pixels)[0]) == pytest.approx(by_hand, abs=1e-3)


def test_structural_similarity_by_the_plain_formula() -> None:
    """Window by window, with the means, variances and covariance written out."""
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 14, 15)).astype(np.float64)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for row in range(4):
        for column in range(5):
            x, y = (image[row : row + 11, column : column + 11] / 255 for image in (first, second))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
            both = (window * (x - mx) * (y - my)).sum()
            top = (2 * mx * my + 1e-4) * (2 * both + 9e-4)
            found.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    images = [torch.from_numpy(image.astype(np.uint8))[None, None] for image in (first, second)]
    assert float(ssim(*images)[0]) == pytest.approx(np.mean(found), abs=1e-6)
    assert float(ssim(images[0], images[0])[0]) == pytest.approx(1.0)


def test_verdicts_in_words() -> None:
    def audited(level: float, counts: list[int] | None) -> Audit:
        held = None if counts is None else np.array(counts)
        return Audit(level, 0.9, 10, 0, held, np.full(10, level), [], [])

    assert verdict(audited(30.0, [10] * 64)).startswith("These tokens will do: reconstructions are sound (30.0 dB)")
    collapsed = verdict(audited(30.0, [1000] + [0] * 63))
    assert collapsed.startswith("Do not train") and "collapsed (perplexity 1 of 64 codes)" in collapsed
    assert "are poor (12.0 dB)" in verdict(audited(12.0, [10] * 64))
    assert "few codes do most of the work" in verdict(audited(25.0, [100] * 5 + [0] * 59))
    assert "code" not in verdict(audited(25.0, None))
