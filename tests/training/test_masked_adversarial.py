"""MAE with an adversary: what is judged, that both learn, and that a run goes on in the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.base.doors import trusted
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks.masked_adversarial import MaskedAdversarial
from tests.loops import loop_of
from tests.training.test_processes import run

TRAINING: dict[str, Any] = {
    "kind": "masked_adversarial", "batch": 16, "steps": 8, "epochs": None, "warmup_steps": 2, "warmup_epochs": None,
    "listens_from": 0.25, "ramp": 0.0, "checkpoint_every": 3, "log_every": 2, "precision": "float32", "lecam": 0.01,
    "augment": ["translation"], "adversarial_weight": 0.5, "adversary_lr": 1e-3,
    "adversary": {"kind": "patchgan", "width": 8, "halvings": 1},
}  # fmt: skip


def recipe(**changes: Any) -> mk.Recipe:
    small = ["model.encoder.dim=32", "model.encoder.depth=1", "model.decoder.dim=32", "model.decoder.depth=1"]
    whole = json.loads(mk.Recipe.load("mae_digits", small).to_json())
    return mk.Recipe.parse({**whole, "training": {**TRAINING, **changes}})


def test_what_is_judged_has_predictions_in_the_hidden_places_alone() -> None:
    loop = loop_of(recipe(listens_from=0.0))
    task: Any = loop.task
    assert isinstance(task, MaskedAdversarial)
    (batch,) = loop.batches(4, 5)
    moment = mk.TrainingStep(4, 8, 0)
    (piece,) = task.cut(batch, moment)
    work = task.prepare(piece, moment)
    loop.players[0].module.eval()
    task.objective("model", work, moment)
    images = task.model.tokenizer.decode(work.tokens["tokens"])
    with trusted():  # predictions go beyond the range of pixels
        filled = task.model.tokenizer.encode(work.filled_BCHW)
    hidden = work.plan.masked_BL
    assert hidden.sum(dim=1).tolist() == [12] * 16
    torch.testing.assert_close(filled[~hidden], work.tokens["tokens"][~hidden])
    assert float((filled[hidden] - work.tokens["tokens"][hidden]).abs().mean()) > 0.05
    # Normalised targets: the predicted patches have the true ones' means back.
    torch.testing.assert_close(
        filled[hidden].mean(dim=1), work.tokens["tokens"][hidden].mean(dim=1), atol=0.5, rtol=0.5
    )
    assert images.shape == work.filled_BCHW.shape == (16, 1, 32, 32)


def test_both_learn_and_a_run_goes_on_in_the_same_bits(tmp_path: Path) -> None:
    whole = mk.train(recipe(), tmp_path / "whole")
    records = read_metrics(whole, "model")
    assert {"adversary_loss", "judgement_real", "lecam", "masked_mse"} <= records[-1].keys()
    assert "deceiving" not in records[0] and "deceiving" in records[-1]
    cut = mk.train(recipe(), tmp_path / "cut", until=4)
    mk.train(recipe(), cut, resume=True)
    first, second = (mk.load(folder).state_dict() for folder in (whole, cut))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    alone = {
        name: TRAINING[name] for name in ("batch", "steps", "epochs", "warmup_steps", "warmup_epochs", "precision")
    }
    plain = mk.Recipe.parse({**json.loads(recipe().to_json()), "training": {"kind": "masked", **alone}})
    other = mk.load(mk.train(plain, tmp_path / "plain")).state_dict()
    assert any(not torch.equal(first[name], value) for name, value in other.items()), "the model listens"


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        ("digits", {}, "nothing here gives pixels back"),
        ("mae_digits", {"shard": True}, "must be false with two players"),
        ("mae_digits", {"adversary": {"kind": "patchgan", "halvings": 4}}, "looks at 48 pixels a side at least"),
    ],
)
def test_what_cannot_be_is_a_line_before_anything_trains(base: str, changes: dict[str, Any], words: str) -> None:
    whole = json.loads(mk.Recipe.load(base).to_json())
    with pytest.raises(mk.RecipeError) as caught:
        mk.check(mk.Recipe.parse({**whole, "training": {**TRAINING, **changes}}))
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.slow
def test_two_processes_give_both_players_gradients_of_one(tmp_path: Path) -> None:
    # Without R1 the adversary's gradient is a small difference of large sums, and float32 has no 1e-5 of it.
    whole = recipe(listens_from=0.0, gradient_penalty=0.01)
    one, two = (run("contest", whole, tmp_path, count) for count in (1, 2))
    for part in ("model.", "adversary.", "objectives"):
        first, second = (
            torch.cat([value.double().flatten() for name, value in results.items() if name.startswith(part)])
            for results in (one, two)
        )
        assert float((first - second).norm()) <= 1e-5 * float(first.norm()), part
