"""A task with two players: a tokenizer and a critic."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.report import write_report
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.metrics import read_metrics
from mage_kit.training.players import check_objective, check_players
from mage_kit.training.train import Loop
from tests.outside.sections import CARRIED, recipe


def against(**changes: Any) -> mk.Recipe:
    task = {"kind": "against", "steps": 60, "batch": 32, "weight": 0.02, **CARRIED, **changes}
    return recipe("against", training=task)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.train(against(), tmp_path_factory.mktemp("against") / "run")


def state(folder: Path) -> dict[str, torch.Tensor]:
    newest = list_checkpoints(folder / "checkpoints" / "tokenizer")[-1]
    files = ("weights", "optimizer", "sums")
    return {
        f"{name}:{key}": value for name in files for key, value in load_file(newest / f"{name}.safetensors").items()
    }


def both_learn(folder: Path) -> None:
    """Each player's numbers move, by as many steps of its own optimizer, and each gets better at its task."""
    first, last = (load_file(path / "weights.safetensors") for path in list_checkpoints(_checkpoints(folder)))
    for player in ("tokenizer", "critic"):
        names = [name for name in last if name.startswith(f"{player}/") and last[name].is_floating_point()]
        assert any(not torch.equal(first[name], last[name]) for name in names), f"{player} stands still"
    moments = load_file(list_checkpoints(_checkpoints(folder))[-1] / "optimizer.safetensors")
    for player in ("tokenizer", "critic"):
        counts = {float(value) for name, value in moments.items() if name.startswith(player) and name.endswith("step")}
        assert counts == {60.0}, f"{player} made {counts} steps"
    records = read_metrics(folder, "tokenizer")
    assert records[-1]["reconstruction"] < 0.5 * records[0]["reconstruction"]
    assert min(record["critic"] for record in records) < 1.95, "a critic that cannot tell stays at 2"


def _checkpoints(folder: Path) -> Path:
    return folder / "checkpoints" / "tokenizer"


def test_two_players_train_and_leave_a_tokenizer(unbroken: Path) -> None:
    both_learn(unbroken)
    tokenizer = mk.load_tokenizer(unbroken)
    assert tokenizer.spec.codes == 32 and mk.load_tokenizer(unbroken / "tokenizer").spec == tokenizer.spec
    record = read_metrics(unbroken, "tokenizer")[-1]
    assert {"lr", "lr_critic", "grad_norm", "grad_norm_critic"} <= record.keys()
    assert json.loads((unbroken / "tokenizer" / "tokenizer.json").read_text())["plugins"] == {}, "the critic stays out"


def test_a_mutant_that_steps_one_player_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = Loop._move
    monkeypatch.setattr(Loop, "_move", lambda self, player, *rest: player.name == "critic" or move(self, player, *rest))
    mk.train(against(), tmp_path / "run")
    with pytest.raises(AssertionError, match="critic stands still"):
        both_learn(tmp_path / "run")


@pytest.mark.parametrize("kill", ["writing", pytest.param("steps", marks=pytest.mark.slow)])
def test_two_players_killed_and_resumed_bit_for_bit(unbroken: Path, tmp_path: Path, kill: str) -> None:
    """Killed at a step, or between the files of the checkpoint of step 40: nothing but that of step 20 counts then."""
    (tmp_path / "recipe.json").write_text(against().to_json())
    done = subprocess.run([sys.executable, "-c", KILLED, kill, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    out = tmp_path / "run"
    assert [path.name for path in list_checkpoints(_checkpoints(out))][-1] == "step-00000020"
    mk.train(against(), out, resume=True)
    whole, again = state(unbroken), state(out)
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    loss = [[record["loss"] for record in read_metrics(folder, "tokenizer")] for folder in (unbroken, out)]
    assert loss[0] == loss[1]


KILLED = """
import os, signal, sys
from pathlib import Path
import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.report import write_report
from mage_kit.training import checkpoints
kind, place = sys.argv[1], Path(sys.argv[2])
writes, write = 0, checkpoints.write_tensors
def killing(path, tensors):
    global writes
    writes += 1
    if kind == "writing" and writes == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, tensors)
checkpoints.write_tensors = killing
def stop(event):
    if kind == "steps" and event.step == 33:
        os.kill(os.getpid(), signal.SIGKILL)
mk.train(mk.Recipe.load(place / "recipe.json"), place / "run", on_step=stop)
"""


@pytest.mark.parametrize("spoilt", ["critic", "tokenizer"])
def test_a_gradient_of_one_player_that_is_not_finite_moves_neither(
    spoilt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Objectives are finite, and the gradient of one alone is not: the step is left out for both, codes included."""
    weights: list[dict[str, torch.Tensor]] = []
    gradients = Loop.gradients

    def spoil(self: Loop, batch: Any, step: int) -> torch.Tensor:
        found = gradients(self, batch, step)
        if step in (10, 11):
            copied = {p.name: {k: v.clone() for k, v in p.module.state_dict().items()} for p in self.players}
            weights.append({f"{name}/{key}": value for name, held in copied.items() for key, value in held.items()})
        if step == 10:
            player = next(player for player in self.players if player.name == spoilt)
            next(iter(player.names.values())).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
        return found

    monkeypatch.setattr(Loop, "gradients", spoil)
    events: list[mk.StepEvent] = []
    mk.train(against(steps=12, checkpoint_every=1, keep=20), tmp_path / "run", on_step=events.append)
    assert [event.skipped for event in events] == [False] * 10 + [True, False]
    assert "step 11: loss or gradient not finite" in capsys.readouterr().err
    before, after = (load_file(list_checkpoints(_checkpoints(tmp_path / "run"))[at] / "weights.safetensors")
                     for at in (9, 10))  # fmt: skip
    assert all(torch.equal(before[name], after[name]) for name in before)
    moments = load_file(list_checkpoints(_checkpoints(tmp_path / "run"))[-1] / "optimizer.safetensors")
    assert {float(value) for name, value in moments.items() if name.endswith("/step")} == {11.0}


def test_a_player_that_joins_later(tmp_path: Path) -> None:
    """Its numbers in the log are means over the steps that it played."""
    events: list[mk.StepEvent] = []
    recipe = against(steps=12, critic_from=8, log_every=12)
    mk.train(recipe, tmp_path / "run", on_step=events.append)
    (record,) = read_metrics(tmp_path / "run", "tokenizer")
    played = [event.losses["critic"] for event in events[8:]]
    assert record["critic"] == pytest.approx(sum(played) / len(played), rel=1e-5) and record["critic"] > 1.5
    assert [set(event.losses) for event in events[7:9]] == [{"tokenizer"}, {"tokenizer", "critic"}]
    moments = load_file(list_checkpoints(_checkpoints(tmp_path / "run"))[-1] / "optimizer.safetensors")
    assert {float(v) for name, v in moments.items() if name.startswith("critic/") and name.endswith("/step")} == {4.0}


@pytest.mark.slow
def test_two_players_on_two_processes(tmp_path: Path) -> None:
    """As on one: the same images, the codebook's means and the gradients of both over all of them."""
    file = tmp_path / "recipe.json"
    file.write_text(against(steps=20).to_json())
    weights = []
    for count in ("1", "2"):
        command = [sys.executable, "-m", "mage_kit.cli", "train", str(file), "--out", str(tmp_path / count / "run")]
        done = subprocess.run([*command, "--processes", count], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        newest = list_checkpoints(tmp_path / count / "run" / "checkpoints" / "tokenizer")[-1]
        weights.append(load_file(newest / "weights.safetensors"))
    one, two = weights
    for name in one:
        if one[name].is_floating_point():
            moved = float((one[name] - two[name]).norm() / one[name].norm().clamp_min(1e-2))
            assert moved < 2e-2, f"{name}: {moved}"
    records = [read_metrics(tmp_path / count / "run", "tokenizer")[-1] for count in ("1", "2")]
    for name in ("reconstruction", "critic"):
        assert records[0][name] == pytest.approx(records[1][name], rel=1e-2)


@pytest.mark.slow
def test_gradients_of_both_players_over_processes_and_passes(tmp_path: Path) -> None:
    """Adam does not see a gradient's scale, so that weights alone would not show a factor: norms do.

    The codebook's means move from pass to pass, so that passes agree with one whole batch only roughly.
    """
    norms: dict[str, dict[str, float]] = {}
    for name, count, micro in (("whole", "1", None), ("processes", "2", None), ("passes", "1", 8), ("both", "2", 8)):
        file = tmp_path / f"{name}.json"
        file.write_text(against(steps=2, log_every=1, micro_batch=micro, checkpoint_every=2).to_json())
        out = tmp_path / name / "run"
        command = [sys.executable, "-m", "mage_kit.cli", "train", str(file), "--out", str(out)]
        done = subprocess.run([*command, "--processes", count], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        norms[name] = read_metrics(out, "tokenizer")[0]
    for place in ("grad_norm", "grad_norm_critic", "reconstruction", "critic"):
        whole = norms["whole"][place]
        assert norms["processes"][place] == pytest.approx(whole, rel=1e-3), place
        for name in ("passes", "both"):
            assert norms[name][place] == pytest.approx(whole, rel=0.15), (place, name)


IDLE = """
from torch import nn
import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.report import write_report
from tests.plugins.against import Against

@mk.TASKS.register("idle")
class Idle(Against):
    __doc__ = Against.__doc__

    def __init__(self, tokenizer: mk.Tokenizer, *, steps: mk.Positive, lr: mk.PositiveFloat = 2e-3,
                 weight: mk.NonNegativeFloat = 0.02, critic_from: mk.NonNegative = 0) -> None:
        super().__init__(tokenizer, steps=steps, lr=lr, weight=weight, critic_from=critic_from)
        self.critic.unread = nn.Linear(3, 3)
        self.critic.forward = lambda x: nn.Sequential(*list(self.critic)[:4])(x)
"""


@pytest.mark.slow
def test_parameters_that_no_gradient_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one process they stay and are named; two would wait for their gradients, so the run ends in a sentence."""
    (tmp_path / "idle_task.py").write_text(IDLE)
    file = tmp_path / "recipe.json"
    task = {"kind": "idle", "steps": 3, "batch": 32, **CARRIED}
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = {**json.loads(against().to_json()), "plugins": ["idle_task"]}
    file.write_text(json.dumps({**mine, "training": task}))
    for count, code in (("1", 0), ("2", 2)):
        command = [sys.executable, "-m", "mage_kit.cli", "train", str(file), "--out", str(tmp_path / count / "run")]
        done = subprocess.run([*command, "--processes", count], capture_output=True, text=True, check=False)
        said = " ".join(done.stderr.split())
        assert done.returncode == code, said
        assert "player 'critic': 2 of its parameters got no gradient, 'unread.weight' first" in said
        assert "Traceback" not in said


class Plain(torch.nn.Module):
    """One parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))


SHARED = Plain()


@pytest.mark.parametrize(
    ("players", "said"),
    [
        ([], "players: none, a task must have at least one"),
        ([("a", Plain()), ("a", Plain())], r"players\[1\].name: 'a', is the name of another player too"),
        ([("a/b", Plain())], r"players\[0\].name: 'a/b', must be a word of letters"),
        ([("a", Plain().requires_grad_(False))], "player 'a': its module has no parameter that requires a gradient"),
        ([("a", SHARED), ("b", SHARED)], "players 'a' and 'b' share a parameter"),
    ],
)
def test_players_that_cannot_be_told_apart(players: list[tuple[str, Plain]], said: str) -> None:
    with pytest.raises(mk.MageKitError, match=said):
        check_players([mk.Player(name, module, mk.Rate(1e-3)) for name, module in players], 10)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (0.5, "objective of player 'a': float, must be a scalar tensor"),
        (torch.ones(3, requires_grad=True), r"of shape \(3,\), must be a scalar tensor"),
        (torch.ones(()), "depends on none of its parameters"),
    ],
)
def test_objectives_that_cannot_be_minimised(objective: object, said: str) -> None:
    with pytest.raises(mk.MageKitError, match=said):
        check_objective("a", objective)


def test_the_report_of_two_players(unbroken: Path, tmp_path: Path) -> None:
    page = write_report(unbroken, tmp_path / "page.html", reporter=Reporter.silent()).read_text()
    assert "complete: step 60" in page
    for title in ("Tokenizer: critic: learning rate", "Tokenizer: critic: objective", "Tokenizer: squared error"):
        assert f"<figcaption>{title}</figcaption>" in page, title
