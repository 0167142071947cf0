"""Images that cannot be read, met late in a measure: named, counted, left out; finished figures are written."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

import mage_kit as mk
from mage_kit.base.errors import BrokenImageError
from mage_kit.evaluation.generation_metrics import Extractor, reference
from mage_kit.evaluation.measures import audit as audit_module
from mage_kit.training.validation import measure_accuracy
from tests import build
from tests.evaluation.test_commands import call, folders, result


def colour(file: Path, cut: int = 0) -> Path:
    """A colour PNG; with `cut`, so many bytes are missing at its end."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    if cut:
        file.write_bytes(file.read_bytes()[:-cut])
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Sixteen images, and in the last place a colour one that ends early: its header is sound."""
    root = folders(tmp_path / "data")
    colour(root / "class1" / "z.png", cut=1500)
    return root


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return mk.save_tokenizer(build.vqgan(1, (8, 8)).eval(), tmp_path / "tokenizer")


def test_an_audit_of_the_others_is_written(tokenizer: Path, data: Path, tmp_path: Path) -> None:
    colour(data / "class0" / "sound.png")
    done = call("eval", "audit", tokenizer, "--data", data, "--out", tmp_path / "out.json")
    assert done.exit_code == 0, done.exception
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["images"] == 17 and facts["broken_images"] == 1
    ((name, reason),) = facts["broken_files"].items()
    assert name == str(data / "class1" / "z.png") and "truncated" in reason
    assert facts["rows"]["reconstructions"]["greyed"] == 1, "the sound one"
    assert "1 of 18 images cannot be read" in facts["verdict"]


@pytest.mark.parametrize("error", [SyntaxError, IndexError, struct.error, MemoryError, OSError])
def test_whatever_a_decoder_raises_is_a_broken_image(
    tokenizer: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Of a colour image, whose pixels are also looked at for the remark that it turns grey."""
    worse, load = colour(data / "class0" / "worse.png"), PngImageFile.load

    def fail(self: PngImageFile) -> Any:
        if self.filename == str(worse):
            raise error("what no decoder promises")
        return load(self)

    monkeypatch.setattr(PngImageFile, "load", fail)
    assert call("eval", "audit", tokenizer, "--data", data, "--out", tmp_path / "out.json").exit_code == 0
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["images"] == 16 and facts["broken_images"] == 2
    assert facts["broken_files"][str(worse)] == "what no decoder promises"


def test_a_fault_of_ours_is_no_broken_image(
    tokenizer: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows, and before the work: no finished figure is lost."""

    def fail(_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(reference, "_is_coloured", fail)
    monkeypatch.setattr(audit_module, "audit", lambda *_, **__: pytest.fail("facts were made first"))
    colour(data / "class0" / "sound.png")
    done = call("eval", "audit", tokenizer, "--data", data, "--out", tmp_path / "out.json")
    assert isinstance(done.exception, RuntimeError) and "a fault of ours" in str(done.exception)


def test_of_none_the_last_is_named(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    colour(tmp_path / "bad" / "only.png", cut=1500)
    error = call("eval", "audit", tokenizer, "--data", tmp_path / "bad", "--out", tmp_path / "out.json").exception
    assert "no image could be read, of 1; the last: image: '" in str(error) and "only.png" in str(error)


def test_a_distance_of_reconstructions_says_what_it_leaves_out(
    tokenizer: Path, network: Path, data: Path, tmp_path: Path
) -> None:
    options = ("--extractor", network, "--side", 0, "--out", tmp_path / "rfid.json")
    done = call("eval", "rfid", tokenizer, "--data", data, *options)
    assert done.exit_code == 0, done.exception
    facts = json.loads((tmp_path / "rfid.json").read_text())
    assert facts["images"] == 16 and facts["broken_images"] == 1 and next(iter(facts["broken_files"])).endswith("z.png")
    assert "1 images that cannot be read left out" in facts["name"] and not facts["comparable"]


def test_a_reference_is_refused_before_the_work(data: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    def means(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1) / 255

    extractor, out = Extractor(means, "means", side=None), tmp_path / "out.safetensors"
    with pytest.raises(mk.MageKitError, match=r"1 of 17 files cannot be read, as image: '.*z\.png'"):
        reference.make_reference(data, out, extractor, size=(32, 32), channels=1)
    assert not sizes, "features were extracted first"
    result_set = reference.make_reference(data, out, extractor, size=(32, 32), channels=1, force=True)
    assert (
        result_set.manifest["count"] == 16 == len(result_set.features_JD) and result_set.manifest["broken_images"] == 1
    )


def test_features_say_which_images_they_lack(run: Path, tmp_path: Path) -> None:
    """One in 202: within what `max_broken` allows."""
    data = folders(tmp_path / "data", images=101)
    sound = data / "class1" / "100.png"
    sound.write_bytes(sound.read_bytes()[:-40])
    assert call("eval", "knn", run, "--data", data, "--overwrite").exit_code == 0
    facts = result(run, "knn")
    ((name, reason),) = facts["broken_files"].items()
    assert facts["broken_images"] == 1 and name == str(sound) and "truncated" in reason


def test_the_accuracy_of_the_others(tmp_path: Path) -> None:
    data = folders(tmp_path / "data")
    colour(data / "class1" / "z.png", cut=1500)
    images = mk.ImageFolder((32, 32), 1, path=str(data))
    encoder = mk.ViTEncoder(dim=32, depth=1, heads=4)
    model = mk.MageClassifier(tokenizer=build.vqgan(1, (8, 8)), encoder=encoder, classes=2).eval()
    accuracy = measure_accuracy(model, images, strict=False)
    assert accuracy.images == 16 and accuracy.broken == 1 and accuracy.errors[0].name.endswith("z.png")
    assert isinstance(accuracy.errors[0], BrokenImageError) and "errors" not in accuracy.as_dict()
    with pytest.raises(mk.MageKitError, match=r"1 of 17 images cannot be read, .*; the latest: image: '.*z\.png'"):
        measure_accuracy(model, images)
