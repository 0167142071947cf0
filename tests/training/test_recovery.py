"""Nothing is lost: killed, told to stop, out of disk, damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.base.files import locked
from mage_kit.base.manifest import MANIFEST_FILE, list_files
from mage_kit.training import checkpoints
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.metrics import read_metrics
from mage_kit.training.train import train
from tests.training.test_training import curve, small


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(), tmp_path_factory.mktemp("runs") / "unbroken")


def same_weights(one: Path, other: Path, name: str = "model.safetensors") -> bool:
    first, second = (load_file(folder / name) for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# -- killed ----------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from mage_kit.recipes.recipe import Recipe
from mage_kit.training.players import Player
from mage_kit.training.train import train
steps, run = 0, Player.rate_at
def counting(*args):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(*args)
Player.rate_at = counting
train(Recipe.load(sys.argv[1]), Path(sys.argv[2]), resume=True)
"""


@pytest.mark.slow
def test_sigkill_at_random_steps_and_resume_gives_the_same_bits(unbroken: Path, tmp_path: Path) -> None:
    """Killed in both stages, several times; the curve and the weights equal those of the unbroken run."""
    out = tmp_path / "killed"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(small().to_json())
    out.mkdir()
    (out / "recipe.json").write_text(small().to_json())
    # What the machine does faster is measured; two runs are compared under the same choices.
    (out / "decisions.json").write_text((unbroken / "decisions.json").read_text())
    draw = random.Random(int(os.environ.get("MAGE_KILL_SEED", "0")))
    lives = 0
    while True:
        lives += 1
        step = draw.randint(9, 20)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(recipe), str(out), str(step)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert lives > 3, "it was hardly ever killed"
    assert curve(out) == curve(unbroken)
    first, second = (load_file(folder / "model.safetensors") for folder in (out, unbroken))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_checkpoint_is_passed_over(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    newest = list_checkpoints(out / "checkpoints" / "model")[-1]
    (newest / "weights.safetensors").write_bytes(b"torn")
    train(small(), out, resume=True)
    assert curve(out) == curve(unbroken)
    first, second = (load_file(folder / "model.safetensors") for folder in (out, unbroken))
    assert all(torch.equal(first[name], second[name]) for name in first)


# -- told to stop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGUSR1))],
)
def test_a_run_told_to_stop_saves_and_leaves(number: signal.Signals, tmp_path: Path) -> None:
    """With loading processes, the signal going to all of them, as a terminal's Ctrl-C does.

    A shell starts what it puts behind itself with SIGINT ignored, and that is inherited: the tests may run there.
    """
    settings = ["training.epochs=30", "training.checkpoint_every=100000", "training.workers=2"]
    settings += ["tokenizer_training.workers=2"]
    recipe, out = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(small(*settings).to_json())
    command = [sys.executable, "-m", "mage_kit.cli", "train", str(recipe), "--out", str(out)]
    before = signal.signal(number, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(number, before)
    deadline = time.monotonic() + 90
    while not read_metrics(out, "model"):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, number)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert f"{number.name}: training the model stopped after step" in told and "go on with --resume" in told
    (saved,) = list_checkpoints(out / "checkpoints" / "model")
    assert f"stopped after step {int(saved.name[5:])} of 420" in told


# -- damaged, or no room ---------------------------------------------------------------------------------------


def test_one_flipped_bit_is_found(unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inside the numbers, where the file's format says nothing."""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    file = list_checkpoints(out / "checkpoints" / "model")[-1] / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))
    train(small(), out, resume=True)
    assert "weights.safetensors: is not what was written (its SHA-256 differs" in capsys.readouterr().err
    assert curve(out) == curve(unbroken) and same_weights(out, unbroken)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
sys.argv = ["mage-kit", "train", sys.argv[1], "--out", sys.argv[2], "--resume"]
from mage_kit.cli import main
main()
"""


def test_a_full_disk_is_told_and_loses_nothing(unbroken: Path, tmp_path: Path) -> None:
    """No file may grow beyond 60 kB, as if the disk were full from there on."""
    out, recipe = tmp_path / "run", tmp_path / "recipe.json"
    recipe.write_text(small().to_json())
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    shutil.rmtree(list_checkpoints(out / "checkpoints" / "model")[-1])
    before = {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()}
    command = [sys.executable, "-c", LIMITED, str(recipe), str(out), "60000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (good,) = list_checkpoints(out / "checkpoints" / "model")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "could not be written, the disk is full" in done.stderr, done.stderr
    assert f"the last good checkpoint is intact: {good}" in done.stderr and "--resume" in done.stderr
    assert {path: path.read_bytes() for path in (out / "checkpoints").rglob("*") if path.is_file()} == before
    train(small(), out, resume=True)
    assert same_weights(out, unbroken)


def test_a_checkpoint_without_digests_is_none(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    newest = list_checkpoints(out / "checkpoints" / "model")[-1]
    (newest / MANIFEST_FILE).unlink()
    train(small(), out, resume=True)
    assert "manifest.json: missing, or lists nothing" in " ".join(capsys.readouterr().err.split())
    assert same_weights(out, unbroken)


def test_a_resumed_run_may_be_carried_out_otherwise(unbroken: Path, tmp_path: Path) -> None:
    """Workers, frequencies and micro-batches are nobody's business but this start's."""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    shutil.rmtree(list_checkpoints(out / "checkpoints" / "model")[-1])
    changes = ["training.workers=1", "training.keep=3", "training.checkpoint_every=3", "training.samples_every=1.0"]
    train(small(*changes), out, resume=True)
    assert same_weights(out, unbroken)
    assert json.loads((out / "recipe.json").read_text())["training"]["keep"] == 3
    with pytest.raises(mk.RecipeError, match=r"\$\.training\.\w+: differs"):
        train(small("training.clip=1.0"), out, resume=True)


def test_two_at_once_in_one_folder_are_one_too_many(unbroken: Path, tmp_path: Path) -> None:
    """Each would drop the other's checkpoints and mix its lines into the log."""
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    with locked(out, "out"), pytest.raises(mk.MageKitError, match=rf"is in use by process {os.getpid()} on"):
        train(small(), out, resume=True)
    train(small(), out, resume=True)


def test_a_checkpoint_set_aside_is_given_its_name_back(unbroken: Path, tmp_path: Path) -> None:
    """Killed between two renames: the old one was moved, the new one had not yet come."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(unbroken / "checkpoints" / "model", folder)
    newest = list_checkpoints(folder)[-1]
    newest.rename(folder / f".{newest.name}.old")
    (folder / f".{newest.name}.abcdefgh").mkdir()
    checkpoints.drop_unfinished(folder)
    assert list_checkpoints(folder)[-1] == newest and not list(folder.glob(".step-*"))
    checkpoints.verify_checkpoint(newest)
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({**state, "step": 7}))
    list_files(newest / "state.json")
    with pytest.raises(mk.MageKitError, match="its step is 7"):
        checkpoints.verify_checkpoint(newest)


def test_checkpoints_that_cannot_be_read_are_never_started_over(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    for path in list_checkpoints(out / "checkpoints" / "model"):
        (path / "optimizer.safetensors").write_bytes(b"torn")
    before = (out / "metrics.jsonl").read_text()
    with pytest.raises(mk.MageKitError, match="can be read; remove that folder"):
        train(small(), out, resume=True)
    assert (out / "metrics.jsonl").read_text() == before
