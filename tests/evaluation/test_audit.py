"""The audit of a tokenizer: its figures by hand, its verdicts in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mage_kit as mk
from mage_kit.evaluation.tokenizer_audit import Audit, psnr, ssim, verdict
from mage_kit.studies.results import gather
from tests import build
from tests.evaluation.test_commands import call, folders


def test_an_audit_says_what_a_tokenizer_is_worth(tmp_path: Path) -> None:
    run = mk.save_tokenizer(build.vqgan(1, (8, 8)).eval(), tmp_path / "tokenizer")
    data = folders(tmp_path / "data")
    (data / "class0" / "broken.png").write_bytes(b"no image")
    done = call("eval", "audit", run, "--data", data, "--out", tmp_path / "out.json")
    assert done.exit_code == 0, done.exception
    held = json.loads((tmp_path / "out.json").read_text())
    numbers = held["rows"]["reconstructions"]
    assert held["images"] == 16 and numbers["broken"] == 1 and len(held["worst"]) == 8
    assert held["verdict"] in " ".join(done.output.split()) and "these tokens" in held["verdict"].lower()
    scores = list(held["worst"].values())
    assert scores == sorted(scores) and scores[0] <= numbers["psnr"]
    assert Image.open(tmp_path / "out.png").size[0] >= 8 * 32
    assert "exists; give --overwrite" in str(
        call("eval", "audit", run, "--data", data, "--out", tmp_path / "out.json").exception
    )
    assert call("eval", "audit", run, "--data", data, "--out", tmp_path / "out.json", "--overwrite").exit_code == 0
    assert call("eval", "audit", run, "--data", data).exit_code == 0 and (run / "eval" / "audit.png").is_file()
    (line,) = [line for line in gather([run]) if line.name == "psnr"]
    assert (
        line.value == numbers["psnr"]
        and line.data == str(data)
        and line.images == 16
        and len(line.weights_sha256) == 64
    )
    assert "cannot be read" in held["verdict"] and held["verdict"].startswith("Do not train"), "one in seventeen"
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
    def audited(level: float, counts: list[int] | None, **others: int) -> Audit:
        held = None if counts is None else np.array(counts)
        given = {"broken": 0, **others}
        return Audit(level, 0.9, 10, counts_V=held, psnr_I=np.full(10, level), worst=[], pairs=[], **given)

    assert verdict(audited(30.0, [10] * 64)).startswith("These tokens will do: reconstructions are sound (30.0 dB)")
    collapsed = verdict(audited(30.0, [1000] + [0] * 63))
    assert collapsed.startswith("Do not train") and "collapsed (perplexity 1 of 64 codes)" in collapsed
    assert "are poor (12.0 dB)" in verdict(audited(12.0, [10] * 64))
    few = verdict(audited(25.0, [16] + [0] * 63))
    assert few.startswith("Too few images to tell") and "audit 400 images or more" in few
    assert "few codes do most of the work" in verdict(audited(25.0, [150] * 5 + [0] * 59))
    assert "code" not in verdict(audited(25.0, None))
    broken = verdict(audited(30.0, [10] * 64, broken=2))
    assert broken.startswith("Do not train") and "2 of 12 images cannot be read" in broken
    assert "3 images are in colour" in verdict(audited(30.0, [10] * 64, greyed=3))
