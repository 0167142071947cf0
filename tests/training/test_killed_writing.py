"""Every task, killed between the files of a checkpoint, resumes in the bits of the unbroken run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.metrics import read_metrics
from tests.training.test_adversarial import game
from tests.training.test_classifier import tuned
from tests.training.test_lone_stages import alone, contrast
from tests.training.test_training import small

KILLED = """
import os, signal, sys
from pathlib import Path
import mage_kit as mk
from mage_kit.training import checkpoints
stage, file, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
write = checkpoints.write_tensors
def killing(path, tensors):
    if path.parent.parent.name == stage and path.parent.name.startswith(".step-") and path.name.startswith("optimizer"):
        if list(path.parent.parent.glob("step-*")):
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, tensors)
checkpoints.write_tensors = killing
mk.train(mk.Recipe.load(file), out)
"""
Make = Callable[[Path], mk.Recipe]
SAME = ("training.precision=float32", "kernels.attention=matmul")  # nothing is chosen by the clock
PLAIN = (*SAME, "tokenizer_training.precision=float32", "training.epochs=1", "training.checkpoint_every=5")
CLASSIFIER = (*SAME, "training.epochs=2", "training.warmup_epochs=1", "training.checkpoint_every=9")
TASKS: dict[str, tuple[str, Make]] = {
    "reconstruct": ("tokenizer", lambda before: alone()),
    "adversarial": ("tokenizer", lambda before: game(adaptive=True)),
    "masked": ("model", lambda before: small(*PLAIN, "training.ema=0.9")),
    "contrast": ("model", lambda before: contrast(*SAME, "training.epochs=2", "training.checkpoint_every=9")),
    "classify": ("classifier", lambda before: tuned(before, *CLASSIFIER, "training.mixup=0.8", "training.ema=0.9")),
    "classify by lars": (
        "classifier",
        lambda before: tuned(before, *CLASSIFIER, "model.head=probe", "pretrained.freeze=true",
                             "training.optimizer=lars", "model.drop_path=0"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.train(small("training.epochs=0.5"), tmp_path_factory.mktemp("runs") / "before")


def state(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    newest = list_checkpoints(folder / "checkpoints" / stage)[-1]
    files = sorted(newest.glob("*.safetensors"))
    return {f"{file.stem}:{name}": value for file in files for name, value in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_killed_inside_a_checkpoint(task: str, before: Path, tmp_path: Path) -> None:
    stage, make = TASKS[task]
    recipe, file = make(before), tmp_path / "recipe.json"
    file.write_text(recipe.to_json())
    whole, out = mk.train(recipe, tmp_path / "a" / "whole"), tmp_path / "b" / "run"
    command = [sys.executable, "-c", KILLED, stage, str(file), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list_checkpoints(out / "checkpoints" / stage)) == 1, "the one that was being written does not count"
    assert list((out / "checkpoints" / stage).glob(".step-*")), "it was not killed inside"
    mk.train(recipe, out, resume=True)
    first, second = state(whole, stage), state(out, stage)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    timed = ("images_per_s", "peak_memory_gib", "step_shares")
    curves = [
        [{k: v for k, v in record.items() if k not in timed} for record in read_metrics(folder, stage)]
        for folder in (whole, out)
    ]
    assert curves[0] == curves[1]
