"""Two players: a tokenizer, and an adversary that learns to tell what it gives back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.adversaries.batch_statistics import without_statistics
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks import TrainingStep
from mage_kit.training.tasks.adversarial import Adversarial
from tests.house.test_core import QUICK
from tests.loops import loop_of
from tests.training.test_processes import run
from tests.training.test_training import small

GAME = {
    "kind": "adversarial", "batch": 16, "steps": 12, "warmup_steps": 2, "listens_from": 0.25, "ramp": 0.25,
    "checkpoint_every": 5, "log_every": 2, "precision": "float32", "lecam": 0.01, "gradient_penalty": 0.1,
    "augment": ["colour", "translation", "cutout"], "ema": 0.9, "lr": 1e-3,
    "adversary": {"kind": "patchgan", "width": 8, "halvings": 1},
}  # fmt: skip
ALONE: dict[str, Any] = {
    "kind": "reconstruct",
    **dict.fromkeys(("listens_from", "ramp", "lecam", "gradient_penalty", "augment", "adversary")),
}


def game(**changes: Any) -> mk.Recipe:
    data = json.loads(small(*QUICK).to_json())
    training = {name: value for name, value in {**GAME, **changes}.items() if value is not None}
    return mk.Recipe.parse({**{key: data[key] for key in ("name", "seed", "data", "tokenizer")}, "training": training})


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("changes", [{}, {"adaptive": True, "contest": "non_saturating"}], ids=["hinge", "adaptive"])
def test_both_learn_and_resume_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = mk.train(game(**changes), tmp_path / "whole")
    records = read_metrics(whole, "tokenizer")
    assert {"adversary_loss", "judgement_real", "accuracy", "lecam", "gradient_penalty"} <= records[-1].keys()
    assert "deceiving" not in records[0] and "deceiving" in records[-1], "the tokenizer listens later"
    assert ("adaptive_weight" in records[-1]) == bool(changes)
    cut = mk.train(game(**changes), tmp_path / "cut", until=7)
    mk.train(game(**changes), cut, resume=True)
    assert same(*(mk.load_tokenizer(folder).state_dict() for folder in (whole, cut)))
    assert (whole / "adversary" / "weights.safetensors").read_bytes() == (
        cut / "adversary" / "weights.safetensors"
    ).read_bytes()


def test_the_adversary_lies_beside_the_tokenizer_never_in_it(tmp_path: Path) -> None:
    run = mk.train(game(steps=4), tmp_path / "run")
    card = json.loads((run / "adversary" / "adversary.json").read_text())
    assert card["adversary"]["kind"] == "patchgan"
    assert not [name for name in mk.load_tokenizer(run).state_dict() if "adversary" in name or "judge" in name]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_one_players_turn_leaves_the_other_bit_for_bit(norm: str) -> None:
    """In values, running statistics and gradients; both ways."""
    recipe = game(adversary={"kind": "patchgan", "width": 8, "halvings": 1, "norm": norm})
    loop = loop_of(recipe)
    tokenizer, adversary = loop.players
    task: Adversarial = loop.task
    (batch,) = loop.batches(9, 10)
    moment = TrainingStep(9, 12, 0)
    (piece,) = task.cut(batch, moment)
    work = task.prepare(piece, moment)
    before = weights(adversary.module)
    with loop._turn(tokenizer, last=True):
        objective = tokenizer.wrapped(work, moment)
        loop.fabric.backward(objective)
    assert same(before, weights(adversary.module))
    assert all(value.grad is None for value in adversary.module.parameters())
    assert all(value.grad is not None for value in tokenizer.names.values())
    tokenizer.optimizer.zero_grad()
    before = weights(tokenizer.module)
    with loop._turn(adversary, last=True):
        loop.fabric.backward(adversary.wrapped(work, moment))
    assert same(before, weights(tokenizer.module))
    assert all(value.grad is None for value in tokenizer.module.parameters())
    assert all(value.grad is not None for value in adversary.names.values())


def test_a_non_finite_gradient_of_the_adversary_moves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Adversarial._tell_apart

    def broken(self: Adversarial, work: Any) -> Tensor:
        loss = plain(self, work)
        return loss * float("nan") if self.stopped == 5 else loss

    counted = Adversarial.cut

    def count(self: Adversarial, batch: Any, step: TrainingStep) -> Any:
        self.stopped = step.number
        return counted(self, batch, step)

    monkeypatch.setattr(Adversarial, "_tell_apart", broken)
    monkeypatch.setattr(Adversarial, "cut", count)
    states: dict[int, dict[str, Tensor]] = {}
    loop = loop_of(game())
    for step, batch in enumerate(loop.batches(0, 7)):
        loop._step(batch, step)
        states[step] = {
            **{f"t.{name}": value for name, value in weights(loop.players[0].module).items()},
            **{f"a.{name}": value for name, value in weights(loop.players[1].module).items()},
        }
    assert same(states[4], states[5]) and not same(states[5], states[6])


def test_a_dead_adversary_is_said() -> None:
    loop = loop_of(game(lecam=0.0, gradient_penalty=0.0))
    alive = loop.task.judge.adversary.judge
    loop.task.judge.adversary.judge = lambda images: alive(images) * 0
    (batch,) = loop.batches(0, 1)
    loop.gradients(batch, 0)
    lines: list[str] = []
    object.__setattr__(loop.task.context.reporter, "say", lines.append)
    assert loop.task.read()["adversary_loss"] == pytest.approx(1.0)
    assert len(lines) == 1 and "the adversary is dead: its loss is 1.0000" in lines[0]


def test_listening_ramps_in() -> None:
    task = Adversarial(mk.build(game()).tokenizer, steps=10, listens_from=0.2, ramp=0.4)
    assert [task.listening(share) for share in (0.0, 0.19, 0.2, 0.4, 0.6, 0.9)] == pytest.approx([0, 0, 0, 0.5, 1, 1])


def test_statistics_of_batch_norms_stay_inside() -> None:
    norm = nn.BatchNorm2d(3)
    with without_statistics(norm):
        norm(torch.randn(4, 3, 2, 2))
    assert int(norm.num_batches_tracked) == 0 and norm.track_running_stats
    norm(torch.randn(4, 3, 2, 2))
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"adversary": {"kind": "patchgan", "halvings": 4}}, "$.training.adversary: adversary 'patchgan': looks at 48"),
        ({"perceptual": {"kind": "resnet50", "weights": "/nowhere.pth"}}, "there is no such file"),
        ({"lr": 1e-3, "min_lr": 2e-3}, "$.training.min_lr: 0.002, must be at most lr (0.001)"),
        ({"min_lr": 1e-4, "adversary_lr": 1e-5}, "$.training.adversary_lr: 1e-05, must be at least min_lr (0.0001)"),
    ],
)
def test_what_cannot_be_is_a_line_before_anything_trains(changes: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(mk.RecipeError) as caught:
        mk.check(game(**changes))
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


QUANTIZERS = {
    "ema": {"kind": "ema", "codes": 32, "width": 4, "restart": 0.0, "entropy": 0.1, "temperature": 0.5},
    "lfq": {"kind": "lfq", "bits": 5},
    "ibq": {"kind": "ibq", "codes": 32, "width": 4},
}


@pytest.mark.parametrize(
    ("quantizer", "count"),
    [("lfq", 2), pytest.param("ema", 2, marks=pytest.mark.slow), pytest.param("ibq", 4, marks=pytest.mark.slow)],
)
def test_processes_give_both_players_gradients_of_one(quantizer: str, count: int, tmp_path: Path) -> None:
    """Adaptive weight, LeCam, the penalty, augmentation, entropies over all codes: 1e-5 of a player's gradient."""
    recipe = game(adaptive=True, listens_from=0.0).changed("tokenizer", quantizer=QUANTIZERS[quantizer])
    one, many = (run("contest", recipe, tmp_path, processes) for processes in (1, count))
    assert one.keys() == many.keys()
    for part in ("tokenizer.", "adversary.", "objectives", "lecam", "record"):
        first, second = (
            torch.cat([value.double().flatten() for name, value in results.items() if name.startswith(part)])
            for results in (one, many)
        )
        assert float((first - second).norm()) <= 1e-5 * float(first.norm()), part
    assert float(one["record"][4]) > 0 and len(one) > 20


TAMING = {
    "kind": "taming", "image_size": [16, 16], "channels": 1, "base_channels": 8, "multipliers": [1, 2],
    "z_channels": 4, "norm_groups": 4, "quantizer": QUANTIZERS["ibq"],
}  # fmt: skip


@pytest.mark.parametrize(("form", "parts"), [({}, ("decoder.",)), (TAMING, ("decoder.", "post_quant_conv."))])
def test_the_decoder_alone(form: dict[str, Any], parts: tuple[str, ...], tmp_path: Path) -> None:
    """Tokens stay as they are; pictures change."""
    plain = game(**ALONE)
    plain = plain.extended(tokenizer=form) if form else plain
    first = mk.train(plain, tmp_path / "first")
    changed = plain.changed("training", train="decoder")
    recipe = changed.changed("tokenizer", weights=str(first))
    second = mk.train(recipe, tmp_path / "second")
    before, after = mk.load_tokenizer(first).state_dict(), mk.load_tokenizer(second).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(parts)}
