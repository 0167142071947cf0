"""Distances of images: against scipy, torchmetrics and closed forms; refusals and names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.frechet import frechet_distance
from mage_kit.evaluation.generation_metrics import (
    Extractor,
    Moments,
    frechet,
    inception_score,
    kernel_distance,
    load_extractor,
    make_reference,
    precision_recall,
    read_reference,
)
from mage_kit.evaluation.image_quality import figure_name, generated_quality, reconstructed_quality
from tests import build

QUIET = Reporter.silent()


def features(images: int, width: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=random) / width**0.5
    return (torch.randn(images, width, generator=random) @ mixing + 0.3 * seed).abs()


def moments(values: torch.Tensor, parts: int = 3) -> Moments:
    held = Moments.empty(values.shape[1])
    for part in values.chunk(parts):
        held.add(part)
    return held


def test_frechet_is_scipys_and_torchmetrics() -> None:
    for width, count in ((16, 400), (64, 50)):  # also where the covariance has no full rank
        first, second = features(count, width, 1), features(count + 7, width, 2)
        ours = frechet(moments(first).gaussian(), moments(second).gaussian())
        means, covs = zip(
            *((x.double().mean(dim=0).numpy(), np.cov(x.double().numpy().T)) for x in (first, second)), strict=True
        )
        root = scipy.linalg.sqrtm(covs[0] @ covs[1]).real
        theirs = np.square(means[0] - means[1]).sum() + np.trace(covs[0] + covs[1] - 2 * root)
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
        assert frechet_distance(first.numpy(), second.numpy()) == pytest.approx(ours, rel=1e-7)
        metric = FrechetInceptionDistance(feature=_Flat(width), normalize=True)
        metric.set_dtype(torch.float64)
        for values, real in ((first, True), (second, False)):
            metric.update(values.double().view(len(values), 1, 1, width), real=real)
        assert ours == pytest.approx(float(metric.compute()), rel=1e-5, abs=1e-6)


class _Flat(nn.Module):
    """Features are the pixels themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_moments_in_parts_are_those_of_the_whole() -> None:
    values = features(300, 8, 1) + 100  # far from 0: the sums must not cancel
    mean, cov = moments(values, parts=7).gaussian()
    torch.testing.assert_close(mean, values.double().mean(dim=0))
    torch.testing.assert_close(cov, torch.cov(values.double().T), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="images: 1, a covariance needs at least 2"):
        moments(values[:1], parts=1).gaussian()
    with pytest.raises(ValueError, match="not finite"):
        frechet((mean * float("nan"), cov), (mean, cov))


def test_inception_score_of_known_answers() -> None:
    """All alike: 1. K classes, each as often and surely: K."""
    assert inception_score(torch.zeros(100, 10))[0] == pytest.approx(1.0)
    sure = torch.eye(10).repeat(50, 1) * 100
    assert inception_score(sure, splits=1)[0] == pytest.approx(10.0, rel=1e-3)


def test_kernel_distance_by_the_plain_double_sum() -> None:
    first, second = features(40, 6, 1), features(40, 6, 2)
    kernel = lambda a, b: (float(a.double() @ b.double()) / 6 + 1) ** 3  # noqa: E731
    within = [
        sum(kernel(x[i], x[j]) for i in range(40) for j in range(40) if i != j) / (40 * 39) for x in (first, second)
    ]
    across = sum(kernel(a, b) for a in first for b in second) / 1600
    found, spread = kernel_distance(first, second, subsets=3, size=1000)
    assert found == pytest.approx(within[0] + within[1] - 2 * across, rel=1e-9) and spread == pytest.approx(0, abs=1e-9)
    same = kernel_distance(features(500, 6, 1), features(500, 6, 1)[torch.randperm(500)], size=100)
    assert abs(same[0]) < 3 * same[1]


def test_precision_and_recall_of_known_answers() -> None:
    real = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 100, real) == (0.0, 0.0)
    collapsed = real[:1] + 1e-3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    precision, recall = precision_recall(collapsed, real)
    assert precision == 1.0 and recall < 0.1, "all good, none varied"
    with pytest.raises(ValueError, match="must be more than the neighbours"):
        precision_recall(real[:3], real)


# -- extractors and references -----------------------------------------------------------------------------------


class Small(nn.Module):
    """A stand-in for Inception with its two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.conv(images / 255).relu().mean(dim=(2, 3))
        return found, self.head(found)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("networks") / "small.pt"
    torch.jit.trace(Small().eval(), torch.rand(2, 3, 20, 20)).save(str(file))
    return file


def pictures(folder: Path, count: int = 12, size: int = 16, suffix: str = "png", seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{number}.{suffix}")
    return folder


def test_an_extractors_file_is_named_by_its_hash(network: Path, tmp_path: Path) -> None:
    extractor = load_extractor(network, side=20)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    found, logits = extractor(images)
    assert found.shape == (4, 6) and logits is not None and logits.shape == (4, 5)
    assert (
        extractor.describe()["sha256"] == load_extractor(network).describe()["sha256"]
        and len(extractor.sha256 or "") == 64
    )
    program = torch.export.export(Small().eval(), (torch.rand(4, 3, 20, 20),))
    torch.export.save(program, str(tmp_path / "small.pt2"))
    assert load_extractor(tmp_path / "small.pt2", side=20)(images)[0].shape == (4, 6)
    grey = Extractor(lambda x: x.mean(dim=(2, 3)), "mean", side=None, values="signed")(
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    )
    torch.testing.assert_close(grey[0], torch.full((2, 3), -1.0))
    (tmp_path / "text.pt").write_text("no network")
    for file, said in (
        (tmp_path / "none.pt", "there is no such file"),
        (tmp_path / "text.pt", "is no TorchScript file"),
    ):
        with pytest.raises(mk.MageKitError, match=said):
            load_extractor(file)
    with pytest.raises(mk.MageKitError, match="must be uint8"):
        extractor(images.float())
    with pytest.raises(mk.MageKitError, match=r"'odd', gave \(2,\), must give features"):
        Extractor(lambda x: x.mean(dim=(1, 2, 3)), "odd", side=None)(images[:2])


def test_networks_that_cannot_be_compared_by_are_told_so(network: Path, tmp_path: Path) -> None:
    """Found at the first images, not after fifty thousand."""
    images = torch.randint(0, 256, (5, 3, 20, 20), dtype=torch.uint8)
    torch.export.save(torch.export.export(Small().eval(), (torch.rand(4, 3, 20, 20),)), str(tmp_path / "four.pt2"))
    with pytest.raises(mk.MageKitError, match=r"'four.pt2', failed on \(5, 3, 20, 20\), .*dynamic batch"):
        load_extractor(tmp_path / "four.pt2", side=None)(images)
    wrong: dict[str, Any] = {
        r"gave \(5, 3, 20, 20\), must give features \(images, D\)": lambda x: x,
        r"gave \(4, 1200\), must give features": lambda x: x.flatten(1)[:4],
        "features that are not finite; see --values": lambda x: x.mean(dim=(2, 3)) / 0,
    }
    for said, network_ in wrong.items():
        with pytest.raises(mk.MageKitError, match=said):
            Extractor(network_, "own", side=None)(images)
    pooled = Extractor(lambda x: x.mean(dim=(2, 3), keepdim=True), "own", side=None)(images)[0]
    assert pooled.shape == (5, 3), "a map of one place is a vector"
    same = Extractor(lambda x: torch.ones(len(x), 3), "same", side=None)
    with pytest.raises(mk.MageKitError, match="'same', gave the same features for different images"):
        same(images)
    assert same(images[:1].expand(4, -1, -1, -1))[0].shape == (4, 3), "of the same images they should be"


def test_grey_and_colour_are_not_compared(network: Path, tmp_path: Path) -> None:
    extractor, colour, kept = load_extractor(network, side=None), pictures(tmp_path / "png"), tmp_path / "a.safetensors"
    given: dict[str, Any] = {"size": (16, 16), "channels": 1, "reporter": QUIET}
    with pytest.raises(mk.MageKitError, match="12 of 12 files are in colour, and would be turned grey"):
        make_reference(colour, kept, extractor, **given)
    make_reference(colour, kept, extractor, force=True, **given)
    assert read_reference(kept, extractor, (16, 16), 1).manifest["channels"] == 1
    with pytest.raises(mk.MageKitError, match="holds grey images, compared are colour ones; see --grey"):
        read_reference(kept, extractor, (16, 16), 3)
    data = mk.ImageFolder(image_size=(16, 16), channels=1, path=str(colour))
    for file in colour.glob("1*.png"):
        Image.open(file).convert("L").convert("RGB").save(file)  # grey, though stored in colours
    result = reconstructed_quality(build.vqgan(1).eval(), data, extractor, reporter=QUIET)
    assert "9 images in colour turned grey" in result["name"]
    assert result["reference"]["filter"] == "none" and len(result["reference"]["pixels_sha256"]) == 64


def test_bfloat16_around_an_extractor_changes_nothing(network: Path) -> None:
    """As where a wide model generates: its precision is not the extractor's."""
    extractor = load_extractor(network, side=20)
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        within = extractor(images)[0]
    assert torch.equal(within, extractor(images)[0])


def test_references_that_would_mislead_are_refused(network: Path, tmp_path: Path) -> None:
    extractor = load_extractor(network, side=None)
    good = make_reference(
        pictures(tmp_path / "png"), tmp_path / "a.safetensors", extractor, size=(16, 16), reporter=QUIET
    )
    assert good.manifest["count"] == 12 and good.manifest["codecs"] == {"PNG": 12} and not good.manifest["forced"]
    lossy = pictures(tmp_path / "jpg", suffix="jpg")
    mixed = pictures(tmp_path / "mixed")
    Image.new("RGB", (16, 16)).save(mixed / "x.bmp")
    large = pictures(tmp_path / "large", size=24)
    twice = pictures(tmp_path / "twice")
    (twice / "again.png").write_bytes((twice / "3.png").read_bytes())
    for folder, said in (
        (lossy, r"12 of 12 files are JPEG \(lossy\): save them as PNG"),
        (mixed, "files of several codecs: BMP, PNG"),
        (twice, "1 of 13 images are copies of others"),
        (large, "12 of 12 files are not 16 x 16 pixels, and would be cropped and resized"),
    ):
        with pytest.raises(mk.MageKitError, match=said):
            make_reference(folder, tmp_path / "b.safetensors", extractor, size=(16, 16), reporter=QUIET)
        assert not (tmp_path / "b.safetensors").exists()
    forced = make_reference(lossy, tmp_path / "c.safetensors", extractor, size=(16, 16), force=True, reporter=QUIET)
    assert forced.manifest["forced"] and forced.manifest["problems"]
    again = read_reference(tmp_path / "a.safetensors", extractor, (16, 16))
    assert again.manifest == json.loads(json.dumps(good.manifest)) and torch.equal(again.cov_DD, good.cov_DD)
    with pytest.raises(mk.MageKitError, match=r"holds images of \[16, 16\], compared are \[32, 32\]"):
        read_reference(tmp_path / "a.safetensors", extractor, (32, 32))
    with pytest.raises(mk.MageKitError, match="was made by another extractor"):
        read_reference(tmp_path / "a.safetensors", load_extractor(network, side=30), (16, 16))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(mk.MageKitError, match="must be a file of mage-kit eval reference"):
        read_reference(tmp_path / "torn.safetensors", extractor, (16, 16))


def test_what_a_figure_is_called() -> None:
    full = {"count": 50_000, "forced": False}
    assert figure_name("gFID", 50_000, full, 0) == "gFID"
    assert figure_name("gFID", 8, full, 0) == "gFID (SMOKE FIGURE of 8 images, comparable with nothing)"
    assert figure_name("rFID", 50_000, {"count": 50_000, "forced": True}, 0) == "rFID (reference forced)"
    assert figure_name("gFID", 50_000, full, 1_200) == "gFID (1,200 duplicates)"
    assert figure_name("gFID", 50_000, {"count": 500, "forced": False}, 0) == "gFID (reference of 500 images)"


def test_generated_images_measured_and_everything_that_made_the_figure(network: Path, tmp_path: Path) -> None:
    model = build.mage(build.vqgan(3)).eval()
    extractor = load_extractor(network, side=None)
    real = make_reference(
        pictures(tmp_path / "png"), tmp_path / "a.safetensors", extractor, size=(16, 16), reporter=QUIET
    )
    result = generated_quality(model, real, extractor, 8, seed=3, batch=3, changes={"steps": 2}, reporter=QUIET)
    assert result["name"].startswith("gFID (SMOKE FIGURE of 8 images") and not result["comparable"]
    made = mk.generate(model, 8, seed=3, steps=2)
    pixels = (made.images_BCHW * 255).byte()
    by_hand = frechet(moments(extractor(pixels)[0], 1).gaussian(), (real.mean_D, real.cov_DD))
    assert result["rows"]["images"]["frechet"] == pytest.approx(by_hand, rel=1e-6)
    assert {"kid", "inception_score", "precision", "recall"} <= set(result["rows"]["images"])
    assert result["decoding"]["steps"] == 2 and result["seed"] == 3 and len(result["weights_sha256"]) == 64
    assert result["extractor"]["sha256"] == extractor.sha256 and result["reference"]["name"] == "png"
    json.dumps(result)
    alike = generated_quality(model, real, extractor, 8, changes={"steps": 1, "token_temperature": 0.0}, reporter=QUIET)
    assert alike["duplicates"] == 7 and alike["most_frequent"] == 8 and "7 duplicates" in alike["name"]


def test_reconstructions_are_rfid(network: Path, tmp_path: Path) -> None:
    tokenizer = build.vqgan(3).eval()
    data = mk.ImageFolder(image_size=(16, 16), channels=3, path=str(pictures(tmp_path / "png")))
    result = reconstructed_quality(tokenizer, data, load_extractor(network, side=None), reporter=QUIET)
    assert result["name"].startswith("rFID (SMOKE FIGURE of 12 images") and result["kind"] == "rFID"
    assert result["reference"]["codecs"] == {"PNG": 12} and result["rows"]["images"]["frechet"] > 0
