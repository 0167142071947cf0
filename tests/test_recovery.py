"""Nothing is lost: killed, told to stop, out of disk, damaged, or gone to NaN."""

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
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.decoders import DECODERS, ViTDecoder
from mage_kit.fields import Positive, PositiveFloat, Probability
from mage_kit.training import loop
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.metrics import read_metrics
from mage_kit.training.run import train
from tests.test_training import curve, small


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
from mage_kit.training import loop
from mage_kit.recipe import Recipe
from mage_kit.training.run import train
steps, run = 0, loop.lr_at
def counting(*args):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(*args)
loop.lr_at = counting
train(Recipe.load(sys.argv[1]), Path(sys.argv[2]), resume=True)
"""


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


FORKED = """
import os, random, signal, sys, time
from pathlib import Path
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.training.run import train
recipe, out, kills = Recipe.load(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
draw, torn, advanced = random.Random(int(sys.argv[4])), 0, set()
def child():
    try:
        train(recipe, out, resume=True, reporter=Reporter.silent())
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)
def saved():
    return sorted(str(path) for path in out.glob("checkpoints/*/step-*"))
for life in range(kills):
    before = saved()
    pid = os.fork() or child()
    if life % 2:  # by the clock, perhaps while it starts
        time.sleep(draw.uniform(0.2, 2.0))
    else:  # on its way, whatever the machine's speed
        while saved() == before:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.4))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"ended by itself: {status}"
    torn += len(list(out.glob("checkpoints/*/.step-*")))
    advanced.add(tuple(saved()))
pid = os.fork() or child()
_, status = os.waitpid(pid, 0)
assert os.WIFEXITED(status) and not os.WEXITSTATUS(status), status
print(torn, len(advanced))
"""


@pytest.mark.slow
def test_fifty_sigkills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    """Checkpoints are written so often that many kills fall into a write; some leave one half-written."""
    settings = ["training.batch=16", "training.epochs=16", "training.checkpoint_every=3", "training.ema=0.99"]
    settings += ["training.log_every=10", "training.precision=float32", "tokenizer_training.steps=60"]
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


# -- told to stop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_told_to_stop_saves_and_leaves(number: signal.Signals, tmp_path: Path) -> None:
    """With loading processes, the signal going to all of them, as a terminal's Ctrl-C does."""
    settings = ["training.epochs=30", "training.checkpoint_every=100000", "training.workers=2"]
    recipe, out = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(small(*settings).to_json())
    command = [sys.executable, "-m", "mage_kit.cli", "train", str(recipe), "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
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
    assert "its content is not what was written (SHA-256 differs)" in capsys.readouterr().err
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


def test_checkpoints_of_before_there_were_digests_are_read(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    (out / "model.safetensors").unlink()
    for path in list_checkpoints(out / "checkpoints" / "model"):
        (path / "state.json").write_text(json.dumps({"step": int(path.name[5:])}))
    train(small(), out, resume=True)
    assert same_weights(out, unbroken)


# -- not finite ------------------------------------------------------------------------------------------------


class Poison(nn.Module):
    """Passes its input on, until told to spoil it."""

    now = False

    def forward(self, value: Tensor) -> Tensor:
        return value * float("nan") if Poison.now else value


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recipe whose decoder can be spoilt at chosen (step, roll-back) pairs."""

    @DECODERS.register("poisoned")
    class Poisoned(ViTDecoder):
        """A decoder with a weak spot.

        Args:
            dim: Width.
            depth: Blocks.
            heads: Heads.
            mlp_ratio: Of the MLP.
            dropout: Everywhere.
        """

        def __init__(
            self, encoder_dim: int, num_tokens: int, *, dim: Positive = 32, depth: Positive = 1, heads: Positive = 2,
            mlp_ratio: PositiveFloat = 4.0, dropout: Probability = 0.1,
        ) -> None:  # fmt: skip
            super().__init__(
                encoder_dim, num_tokens, dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio, dropout=dropout
            )
            self.weak_spot = Poison()

        def forward(self, padded_BNE: Tensor, condition: Any = None) -> Tensor:
            return super().forward(self.weak_spot(padded_BNE), condition)

    def arrange(bad: Any) -> mk.Recipe:
        seed = loop.Loop._seed

        def watched(self: loop.Loop, step: int) -> None:
            Poison.now = self.plan.name == "model" and bad(step, self.counters["rollbacks"])
            seed(self, step)

        monkeypatch.setattr(loop.Loop, "_seed", watched)
        return small("model.decoder=poisoned", "training.checkpoint_every=5", "training.skip_limit=3")

    yield arrange
    Poison.now = False


def test_a_non_finite_step_is_left_out_and_its_module_named(
    poisoned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(poisoned(lambda step, tries: step in (9, 20, 21)), tmp_path / "run")
    told = capsys.readouterr().err
    assert "step 10: loss or gradient not finite, first in the output of 'decoder.weak_spot'" in told
    assert told.count("the step is left out") == 2, "of two in a row the first is looked into"
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["skipped"] == 3 and records[-1]["step"] == 28
    assert all(record["loss"] == record["loss"] for record in records)
    moments = load_file(list_checkpoints(tmp_path / "run" / "checkpoints" / "model")[-1] / "optimizer.safetensors")
    assert float(moments["embedding.table/step"]) == 25, "no update was made of a spoilt gradient"


def test_several_in_a_row_go_back_to_the_last_good_checkpoint(
    poisoned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(poisoned(lambda step, tries: 12 <= step < 18 and not tries), tmp_path / "run")
    told = capsys.readouterr().err
    assert "3 steps in a row were not finite; back to step 10 (1 of 2 times)" in told
    records = read_metrics(tmp_path / "run", "model")
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps)) and steps[-1] == 28 and records[-1]["skipped"] == 3
    state = json.loads((list_checkpoints(tmp_path / "run" / "checkpoints" / "model")[-1] / "state.json").read_text())
    assert state["counters"] == {"skipped": 3, "rollbacks": 1}


def test_a_run_that_cannot_be_saved_stops_and_says_so(poisoned: Any, tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError) as caught:
        train(poisoned(lambda step, tries: step >= 12), tmp_path / "run")
    text = str(caught.value)
    assert "after 2 returns to the last good checkpoint: stopped" in text and "step-00000010 is intact" in text
    assert "lower learning rate" in text


def test_a_non_finite_gradient_alone_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from mage_kit.training.non_finite import name_the_module

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, value: Tensor) -> Tensor:
            return self.second((self.first(value) * 0).sqrt())  # the root's slope at 0 is infinite

    module = Steep()
    where = name_the_module(module, dict(module.named_parameters()), lambda: module(torch.ones(1, 2)).sum().backward())
    assert where.startswith("first in the gradient of 'first.bias'"), where


def test_a_gradient_that_is_not_finite_stops_before_anything_is_saved(tmp_path: Path, unbroken: Path) -> None:
    """Checkpoints are more frequent than lines of the log here: none may hold what a NaN left."""
    wild = ["training.base_lr=1e38", "training.warmup_epochs=0", "training.clip=null"]
    often = ["training.checkpoint_every=1", "training.log_every=28", "training.keep=1"]
    with pytest.raises(mk.MageKitError, match=r"training the model: at step .* not finite"):
        train(small(f'tokenizer.weights="{unbroken}"', *wild, *often), tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run" / "checkpoints" / "model"):
        tensors = load_file(path / "weights.safetensors")
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values() if tensor.is_floating_point())


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
