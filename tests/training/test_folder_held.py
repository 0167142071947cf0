"""A run's folder belongs to one training: locked, then looked into, then written, and free once its process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.base.files import LOCK_FILE, locked
from mage_kit.training.train import train
from tests.training.test_training import small

ROOT = Path(__file__).parents[2]
QUICK = ("training.epochs=0.2", "tokenizer_training.steps=3", "training.precision=float32", "kernels.attention=matmul")
HOLDER = """
import os, sys, time
from pathlib import Path
from mage_kit.base.files import locked
with locked(Path(sys.argv[1]), "out"):
    if os.fork() == 0:  # as a loading worker, which outlives a killed parent
        time.sleep(20)
        os._exit(0)
    print("held", flush=True)
    time.sleep(20)
"""
RACER = """
import sys, time
from pathlib import Path
import mage_kit as mk
recipe = mk.Recipe.load(sys.argv[2])
Path(sys.argv[3]).touch()
while not Path(sys.argv[4]).exists():
    time.sleep(0.001)
try:
    mk.train(recipe, sys.argv[1])
except mk.MageKitError as error:
    print(error)
    sys.exit(2)
"""


def started(program: str, *words: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.mark.parametrize("left", [("data.json",), ("data.json", "plugins.json", ".lock"), (".recipe.json.ab12cd34",)])
def test_a_training_killed_before_its_recipe_was_written_starts_over(left: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in left:
        (out / name).write_text("{}")
    train(small(*QUICK), out)
    assert mk.load(out) is not None and not (out / ".recipe.json.ab12cd34").exists()


def test_a_folder_of_anything_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(mk.MageKitError, match="is not empty"):
        train(small(*QUICK), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"], "not even a lock"
    with pytest.raises(mk.MageKitError, match=r"no run there"):
        train(small(*QUICK), tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_that_is_held_is_not_touched(tmp_path: Path) -> None:
    out = train(small(*QUICK), tmp_path / "run")
    temporary = out / ".metrics.jsonl.ab12cd34"
    temporary.write_text("being written by the one who holds it")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != LOCK_FILE}
    with locked(out, "out"), pytest.raises(mk.MageKitError, match=rf"in use by process {os.getpid()}"):
        train(small(*QUICK), out, resume=True)
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != LOCK_FILE}
    assert before == after


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    """Killed, with a child of its own still there."""
    holder = started(HOLDER, tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(mk.MageKitError, match="in use by process"), locked(tmp_path, "out"):
        pass
    holder.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    while True:
        try:
            with locked(tmp_path, "out"):
                break
        except mk.MageKitError:
            assert time.monotonic() - killed < 1.0
            time.sleep(0.01)
    holder.wait()


@pytest.mark.slow
def test_of_two_trainings_into_one_folder_one_trains_and_one_says_why_not(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(small(*QUICK).to_json())
    for race in range(6):
        out, go = tmp_path / f"run{race}", tmp_path / f"go{race}"
        ready = [tmp_path / f"ready{race}-{number}" for number in range(2)]
        racers = [started(RACER, out, file, place, go) for place in ready]
        while not all(place.exists() for place in ready):
            time.sleep(0.01)
        go.touch()
        said = [racer.communicate()[0] for racer in racers]
        assert sorted(racer.returncode for racer in racers) == [0, 2], said
        assert any("is in use by process" in words or "is not empty" in words for words in said)
        assert mk.load(out) is not None and json.loads((out / "recipe.json").read_text())
