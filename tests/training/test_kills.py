"""Kills at random moments: whatever is left resumes, in the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mage_kit.training.metrics import read_metrics
from mage_kit.training.train import train
from tests.training.test_recovery import same_weights
from tests.training.test_training import curve, small


@pytest.mark.slow
def test_sigkill_at_a_random_moment_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    """Killed by the clock, from outside, wherever it is."""
    out, recipe = tmp_path / "run", tmp_path / "recipe.json"
    recipe.write_text(small().to_json())
    command = [sys.executable, "-m", "mage_kit.cli", "train", str(recipe), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.random() * 0.5)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had ended before it was killed"
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [record["step"] for record in read_metrics(out, "model")]
    assert steps == sorted(set(steps)) and steps[-1] == 28


FORKED = """
import os, random, signal, sys, time
from pathlib import Path
from mage_kit.base.progress import Reporter
from mage_kit.recipes.recipe import Recipe
from mage_kit.training.train import train
recipe, out, kills = Recipe.load(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
draw, torn, advanced = random.Random(int(sys.argv[4])), set(), set()
def child():
    try:
        train(recipe, out, resume=True, reporter=Reporter.silent())
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
def saved():
    return sorted(str(path) for path in out.glob("checkpoints/*/step-*"))
def unfinished():
    return {str(path) for path in out.glob("checkpoints/*/.step-*")}
for life in range(kills):
    before, halves = saved(), unfinished()
    pid = os.fork() or child()
    if life % 8 == 3:  # while a checkpoint is being written, whatever the machine's speed
        while not unfinished() - halves:
            time.sleep(0.0005)
    elif life % 2:  # by the clock, perhaps while it starts
        time.sleep(draw.uniform(0.2, 2.0))
    else:  # on its way
        while saved() == before:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.4))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"ended by itself: {status}"
    torn |= unfinished() - halves
    advanced.add(tuple(saved()))
pid = os.fork() or child()
_, status = os.waitpid(pid, 0)
assert os.WIFEXITED(status) and not os.WEXITSTATUS(status), status
print(len(torn), len(advanced))
"""


@pytest.mark.slow
def test_fifty_sigkills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    """Checkpoints are written so often that many kills fall into a write; some leave one half-written."""
    settings = ["training.batch=16", "training.epochs=16", "training.checkpoint_every=3", "training.ema=0.99"]
    settings += ["training.log_every=10", "training.precision=float32", "tokenizer_training.steps=60"]
    settings += [f"tokenizer_training.{name}" for name in ("checkpoint_every=3", "log_every=10", "precision=float32")]
    recipe, out, whole = tmp_path / "recipe.json", tmp_path / "a" / "killed", tmp_path / "b" / "unbroken"
    recipe.write_text(small(*settings).to_json())
    for folder in (out, whole):
        folder.mkdir(parents=True)
    (out / "recipe.json").write_text(small(*settings).to_json())
    train(small(*settings), whole)
    (out / "decisions.json").write_text((whole / "decisions.json").read_text())
    command = [sys.executable, "-c", FORKED, str(recipe), str(out), "50", os.environ.get("MAGE_KILL_SEED", "0")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    torn, places = map(int, done.stdout.split())
    print(f"50 kills: {torn} left a half-written checkpoint, at {places} different places")
    assert torn > 0 and places > 20
    assert curve(out) == curve(whole)
    assert same_weights(out, whole) and same_weights(out, whole, "ema.safetensors")
