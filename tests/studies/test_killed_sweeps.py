"""A sweep that is killed from outside, in a training or between two, and gone on with."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mage_kit.studies.comparison import Comparison
from tests.studies.test_compare import tiny

SAMPLERS = '["truncated_normal", "uniform", {"kind": "fixed", "ratio": 0.6}]'


def command(recipe: Path, out: Path) -> list[str]:
    axes = ["--vary", f"model.mask_ratio={SAMPLERS}", "--vary", "model.drop=0.25,0.5"]
    return [
        sys.executable, "-m", "mage_kit.cli", "compare", str(recipe), *axes, "--seeds", "3", "--out", str(out)
    ]  # fmt: skip


def trained(out: Path) -> int:
    return len(list(out.glob("runs/*/model.safetensors")))


def kill_after(words: list[str], out: Path, runs: int) -> None:
    """Let it train so many runs, and kill it somewhere in what follows: it must not have ended."""
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while trained(out) < runs:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.random() * 2)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"


@pytest.mark.slow
def test_a_sweep_killed_twice_gives_the_table_of_an_unbroken_one(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(tiny().changed("evaluation", samples=64).to_json())
    whole, cut = command(recipe, tmp_path / "whole"), command(recipe, tmp_path / "cut")
    subprocess.run(whole, check=True, capture_output=True)
    kill_after(cut, tmp_path / "cut", runs=4)
    begun = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/runs/*/model.safetensors")}
    kill_after(cut, tmp_path / "cut", runs=11)
    subprocess.run(cut, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in begun.items()), "what was trained is not again"
    tables = [Comparison.read(tmp_path / place / "compare.json") for place in ("whole", "cut")]
    assert tables[0] == tables[1]
    assert len(tables[0].rows) == 6
    for row in tables[0].rows:
        assert not row.problems and all(len(values) == 3 for values in row.values.values())
    for end in ("md", "csv", "tex"):
        texts = {(tmp_path / place / f"compare.{end}").read_text() for place in ("whole", "cut")}
        assert len(texts) == 1
