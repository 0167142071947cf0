"""Twenty fresh runs of the demo's recipe, shortened, are one: nothing in them is chosen by the clock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mage_kit.base.files import read_json
from mage_kit.base.manifest import file_digest
from tests.recipes.test_recipe import RECIPES

RUNS = 20
SHORT = ("tokenizer_training.steps=6", "training.epochs=0.5", "training.samples_every=null")


@pytest.mark.slow
def test_fresh_runs_end_in_one_set_of_weights(tmp_path: Path) -> None:
    ends: set[tuple[str, ...]] = set()
    for number in range(RUNS):
        out = tmp_path / str(number) / "run"  # none beside another, whose tokenizer it would take
        command = [sys.executable, "-m", "mage_kit.cli", "train", str(RECIPES / "digits_demo.json"), "--out", str(out)]
        command += [word for change in SHORT for word in ("--set", change)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        reasons = {name: item["reason"] for name, item in read_json(out / "decisions.json").items()}
        assert not [reason for reason in reasons.values() if " ms" in reason], "chosen by the clock"
        files = ("model.safetensors", "ema.safetensors", "tokenizer/tokenizer.safetensors")
        ends.add(tuple(file_digest(out / name) for name in files if (out / name).is_file()))
    assert len(ends) == 1, f"{len(ends)} different ends of {RUNS} runs"
