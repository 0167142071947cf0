"""What a part written outside can get wrong is said by name, with the rule."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks import Reconstruct
from tests import build
from tests.outside.sections import CARRIED, recipe

TASK = {"kind": "reconstruct", "steps": 4, "batch": 32, **CARRIED}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"stage": "../up"}, "stage: '../up', must be a word of small letters"),
        ({"stage": "validation"}, "stage: 'validation', must be another word"),
        ({"makes": "dog"}, "makes: 'dog', must be 'tokenizer' or 'model'"),
        ({"makes": "model", "model_kind": None}, "model_kind: None, must name a kind"),
    ],
)
def test_declarations_of_tasks(words: dict[str, Any], said: str) -> None:
    with pytest.raises(mk.RegistrationError, match=said):
        type("Wrong", (Reconstruct,), words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"clip": 0.0}, "player 'a': clip 0.0, must be above 0"),
        ({"ema": 2.0}, r"player 'a': ema 2.0, must lie in \[0, 1\]"),
        ({"rate": 0.1}, "player 'a': rate is a float, must be a Rate"),
        ({"module": "x"}, "player 'a': module is a str, must be a Module"),
    ],
)
def test_declarations_of_players(words: dict[str, Any], said: str) -> None:
    with pytest.raises(mk.MageKitError, match=said):
        mk.Player(**{"name": "a", "module": torch.nn.Linear(1, 1), "rate": mk.Rate(1e-3), **words})
    with pytest.raises(mk.MageKitError, match=r"rate: peak -1\.0, must be a number of at least 0"):
        mk.Rate(-1.0)


def test_the_logs_own_names_and_numbers_alone_are_tallied() -> None:
    task = Reconstruct(build.vqgan(), steps=1)
    task.context = SimpleNamespace(device=torch.device("cpu"))  # type: ignore[assignment]  # all that tally reads
    task.sums = {}
    with pytest.raises(mk.MageKitError, match="tally: 'step', is a name of the log's own"):
        task.tally("step", torch.ones(()))
    with pytest.raises(mk.MageKitError, match=r"tally: 'x' of shape \(2,\), must be one number"):
        task.tally("x", torch.ones(2))
    task.tally("x", 3.0)
    task.tally("x", torch.tensor([5.0]))
    assert task.read() == {"x": 4.0} and task.read() == {}


def test_the_loss_of_the_log_is_the_objective_where_a_task_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reconstruct, "objective", lambda self, player, work, step: self.tokenizer.objective(
        work, step.progress, step.generator("restart")).total)  # fmt: skip
    losses: list[float] = []
    mine = recipe("against", training={**TASK, "log_every": 4})
    mk.train(mine, tmp_path / "run", on_step=lambda event: losses.append(event.losses["tokenizer"]))
    (record,) = read_metrics(tmp_path / "run", "tokenizer")
    assert record["loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_a_length_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reconstruct, "length", lambda self, steps_per_epoch: 0)
    with pytest.raises(mk.RecipeError, match=r"\$.training.kind: 'reconstruct' says that it takes 0 steps"):
        mk.train(recipe("against", training=TASK), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tokens", "features"])
def test_a_target_may_not_take_the_name_of_a_stream(name: str) -> None:
    with pytest.raises(mk.PartsError, match=f"'{name}' is a stream of the tokenizer's; rename it"):
        build.mage(build.vqgan(), targets={name: build.vqgan(codes=16)})


@pytest.mark.parametrize("name", ["values", "type", "forward", "two words"])
def test_a_target_may_not_take_the_name_of_torchs_attributes(name: str) -> None:
    with pytest.raises(mk.PartsError, match=f"targets.{name}: '{name}', must be a word"):
        build.mage(build.vqgan(), targets={name: build.vqgan(codes=16)})


def test_a_head_of_another_stream_is_refused() -> None:
    other = build.vqgan(codes=16)
    head = mk.CodeHead(other.spec, 24, 32, False)
    with pytest.raises(mk.PartsError, match=r"heads.tokens: CodeHead was made for .*, must be for stream 'tokens'"):
        build.mage(build.vqgan(), heads={"tokens": head})


def test_a_mean_that_nobody_writes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    player = lambda self: [mk.Player("tokenizer", self.tokenizer.encoder, mk.Rate(1e-3), ema=0.9)]  # noqa: E731
    monkeypatch.setattr(Reconstruct, "players", player)
    with pytest.raises(mk.MageKitError, match=r"player 'tokenizer': ema 0.9, must be None"):
        mk.train(recipe("against", training=TASK), tmp_path / "run")


def test_a_tokenizer_trained_on_from_weights_is_not_one_trained_from_the_seed(tmp_path: Path) -> None:
    """A run beside it, of the same task and seed, trains its own."""
    first = mk.train(recipe("against", training=TASK), tmp_path / "a" / "run")
    onward = recipe("against", training=TASK).changed("tokenizer", weights=str(first))
    prints = [
        json.loads((mk.train(each, tmp_path / "b" / str(number)) / "tokenizer" / "tokenizer.json").read_text())
        for number, each in enumerate((onward, recipe("against", training=TASK)))
    ]
    assert prints[0]["fingerprint"] != prints[1]["fingerprint"]


def test_what_a_listener_of_a_validation_raises_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be shown ends no run; the caller's own word does."""
    monkeypatch.setattr(Reconstruct, "look_every", lambda self: 2)
    look = lambda self, step, path: self.context.log.write({"stage": "validation", "step": step})  # noqa: E731
    monkeypatch.setattr(Reconstruct, "look", look)

    def refuse(event: mk.LogEvent) -> None:
        if event.stage == "validation":
            raise ZeroDivisionError("enough")

    with pytest.raises(ZeroDivisionError, match="enough"):
        mk.train(recipe("against", training=TASK), tmp_path / "run", on_log=refuse)


def test_a_count_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.loops import loop_of
    from tests.training.test_training import small

    loop = loop_of(small())
    (batch,) = loop.batches(0, 1)
    monkeypatch.setattr(mk.MaskedCrossEntropy, "count", lambda self, masks: -1.0)
    with pytest.raises(mk.MageKitError, match=r"model.losses\[0\]: MaskedCrossEntropy counts -1.0, must be a number"):
        loop.gradients(batch, 0)


def test_python_values_that_are_no_recipe_or_section(tmp_path: Path) -> None:
    whole = recipe("against", training=TASK)
    for call in (mk.check, mk.build, lambda value: mk.train(value, tmp_path / "run")):
        with pytest.raises(mk.MageKitError, match=r"recipe: a str, must be a Recipe; Recipe\.load reads a file"):
            call("mage.json")  # type: ignore[arg-type]
    with pytest.raises(mk.RecipeError, match=r"\$.trainin: no section"):
        whole.changed("trainin", batch=3)
    with pytest.raises(mk.RecipeError, match=r"\$.pretrained: null here"):
        whole.changed("pretrained", weights="x")
    assert whole.extended(tokenizer=whole.tokenizer).to_json() == whole.to_json()
    with pytest.raises(mk.MageKitError, match="on_step: a str, must be a function"):
        mk.train(whole, tmp_path / "run", on_step="x")  # type: ignore[arg-type]
