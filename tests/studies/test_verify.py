"""`mage-kit verify`: the shipped curve comes out again, and a training that differs is noticed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.base.manifest import list_files
from mage_kit.studies.verify import verify
from tests.recipes.test_recipe import RECIPES

REFERENCE = RECIPES / "reference_digits"


def test_the_shipped_curve_comes_out_again() -> None:
    command = [sys.executable, "-m", "mage_kit.cli", "verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "within the tolerance of 0.002" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("training", "base_lr", 0.0045), ("training", "clip", 0.1)],
)
def test_another_training_is_noticed(section: str, name: str, value: float, tmp_path: Path) -> None:
    """A learning rate half as large again, and gradients clipped to nearly nothing."""
    run = tmp_path / "run"
    shutil.copytree(REFERENCE, run)
    recipe = json.loads((run / "recipe.json").read_text())
    recipe[section][name] = value
    (run / "recipe.json").write_text(json.dumps(recipe))
    list_files(run / "recipe.json")
    made = verify(run)
    print([f"{line.deviation:.1e}" for line in made.lines])
    assert not made.holds


def test_exit_code_and_folders_that_are_no_runs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(REFERENCE, run)
    (run / "reference.json").unlink()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[1]["loss"] *= 1.05
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    list_files(run / "metrics.jsonl")
    command = [sys.executable, "-m", "mage_kit.cli", "verify", str(run), "--lines", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "OUTSIDE the tolerance of 0.02" in done.stdout
    with pytest.raises(mk.MageKitError, match="must be a run folder"):
        verify(tmp_path)
    (run / "metrics.jsonl").write_text("")
    list_files(run / "metrics.jsonl")
    with pytest.raises(mk.MageKitError, match="has no line"):
        verify(run)
