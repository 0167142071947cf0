"""Classifiers on several processes: the same training, mixing and batch norm as on one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.training.train import train
from tests.training.test_classifier import tuned
from tests.training.test_training import small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=0.5"), tmp_path_factory.mktemp("runs") / "before")


@pytest.mark.parametrize("kind", ["tuned", "probe"])
def test_two_processes_train_what_one_does(before: Path, tmp_path: Path, kind: str) -> None:
    quiet = ("model.drop_path=0.0", "model.embedding.dropout=0.0", "model.encoder.dropout=0.0")
    changes = {
        "tuned": ("training.mixup=0.8", "training.cutmix=1.0"),
        "probe": (
            "model.head=probe",
            "pretrained.freeze=true",
            "training.optimizer=lars",
            "training.base_lr=1.0",
        ),
    }[kind]
    recipe = tuned(before, *quiet, *changes, "training.batch=64", "training.optimizer.weight_decay=0.0")
    file = tmp_path / "recipe.json"
    file.write_text(recipe.to_json())
    states = []
    for count in (1, 2):
        out = tmp_path / f"on-{count}"
        command = [sys.executable, "-m", "mage_kit.cli", "train", str(file), "--out", str(out)]
        done = subprocess.run([*command, "--processes", str(count)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = json.loads((out / "eval" / "accuracy.json").read_text())["rows"]
        states.append((mk.load_classifier(out).state_dict(), rows))
    (one, first), (two, second) = states
    for name in one:
        if one[name].is_floating_point():
            moved = float((one[name] - two[name]).norm() / one[name].norm().clamp_min(1e-3))
            assert moved < 2e-3, f"{name}: {moved}"
    assert second["raw"]["images"] == first["raw"]["images"] == 200
    assert second["raw"]["top1"] == pytest.approx(first["raw"]["top1"], abs=0.02)
