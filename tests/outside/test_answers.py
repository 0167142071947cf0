"""What a loss, a head or an optimizer written outside answers wrongly is said by its name, with the rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.training.engine import make_fabric
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks import Reconstruct
from tests import build
from tests.outside.sections import masked, recipe, training
from tests.training.test_training import small

HALF = torch.full((4,), 0.6, dtype=torch.float64)


def step(model: mk.Mage) -> Any:
    """One training pass."""
    plan = model.plan(HALF, torch.rand(4, model.spec.grid.size, generator=torch.Generator().manual_seed(0)))
    masks = mk.BatchMasks(HALF, int(model.n_masked(HALF).sum()), 1)
    return model(model.tokenize(build.images(model, 4, 0)), plan, masks)


class Answer(mk.CodeHead):
    """A head of codes that answers what it is told to."""

    answer: Callable[[Any], Any] = staticmethod(lambda made: made)
    of: str = ""

    def forward(self, *given: Any) -> Any:
        made = super().forward(*given)
        return self.answer(made) if self.of == "forward" else made

    def rows(self, *given: Any) -> Any:
        made = super().rows(*given)
        return self.answer(made) if self.of == "rows" else made

    def draw(self, *given: Any) -> Any:
        made = super().draw(*given)
        return self.answer(made) if self.of == "draw" else made


def model_of(of: str, answer: Callable[[Any], Any]) -> mk.Mage:
    tokenizer = build.vqgan()
    head = Answer(tokenizer.spec, 24, 32, True)
    head.of, head.answer = of, answer  # type: ignore[method-assign]
    return build.mage(tokenizer, heads={"tokens": head}, losses=[mk.MaskedPrediction()]).eval()


@pytest.mark.parametrize(
    ("of", "answer", "said"),
    [
        ("forward", lambda made: made[:1], r"heads.tokens: Answer gave predictions \(1, 32\), must be \(\d+, X\)"),
        ("forward", lambda made: None, "heads.tokens: Answer gave predictions NoneType"),
        ("rows", lambda made: made.rows_M, "Answer: rows gave a Tensor, must give LossRows"),
        ("rows", lambda made: mk.LossRows(made.rows_M.mean()), r"Answer: rows_M of shape \(\), must be \(\d+,\)"),
        ("rows", lambda made: mk.LossRows(made.rows_M, made.hits_M[:2]), r"Answer: hits_M of shape \(2,\), must be"),
    ],
)
def test_heads_in_training(of: str, answer: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(mk.MageKitError, match=said):
        step(model_of(of, answer))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda made: made.ids_BL, "Answer drew a Tensor, must give a TokenDraw"),
        (lambda made: mk.TokenDraw(made.ids_BL + 1000, made.log_p_BL, None), "drew ids from .* to .*, must be 0 to 31"),
        (lambda made: mk.TokenDraw(made.ids_BL - 40, made.log_p_BL, None), "drew ids from -.* to .*, must be 0 to 31"),
    ],
)
def test_heads_in_generation(answer: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(mk.PartsError, match=said):
        mk.generate(model_of("draw", answer), 2)


def test_the_head_is_named_where_it_has_no_logits() -> None:
    model = model_of("draw", lambda made: mk.TokenDraw(made.ids_BL, made.log_p_BL * torch.nan, None))
    type(model.head).gives_logits = False
    try:
        with pytest.raises(ValueError, match="head: log_p of Answer is not finite"):
            mk.generate(model, 2)
    finally:
        type(model.head).gives_logits = True


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda term: mk.LossTerm(term.rows_M), r"Odd: total of shape \(\d+,\), must be a scalar tensor"),
        (lambda term: mk.LossTerm(term.total, term.rows_M[:3]), r"Odd: rows_M of shape \(3,\), must be \(\d+,\), or"),
        (lambda term: term.total, "Odd: gave a Tensor, must give a LossTerm"),
    ],
)
def test_losses(answer: Callable[[mk.LossTerm], Any], said: str) -> None:
    class Odd(mk.MaskedCrossEntropy):
        def forward(self, inputs: mk.LossInputs) -> Any:
            return answer(super().forward(inputs))

    with pytest.raises(mk.MageKitError, match=said):
        step(build.mage(losses=[Odd()]))


def test_without_hits_no_accuracy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = mk.MaskedCrossEntropy.forward

    def bare(self: mk.MaskedCrossEntropy, inputs: mk.LossInputs) -> mk.LossTerm:
        term = forward(self, inputs)
        return mk.LossTerm(term.total, term.rows_M)

    monkeypatch.setattr(mk.MaskedCrossEntropy, "forward", bare)
    short = ("training.epochs=0.2", "tokenizer_training.steps=3", "training.log_every=1")
    record = read_metrics(mk.train(small(*short), tmp_path / "run"), "model")[-1]
    assert "accuracy" not in record and record["by_ratio"]
    assert not any("accuracy" in part for part in record["by_ratio"].values())


def test_a_head_of_codes_on_a_stream_of_values_is_a_problem_of_the_recipe() -> None:
    tokenizer = {"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 8}
    model = masked([{"kind": "masked_prediction", "weight": 1.0}], heads={"tokens": {"kind": "bits", "hidden": 8}})
    rule = r"\$.model.heads.tokens and \$.tokenizer: 'bits' needs codes, the stream has continuous tokens"
    with pytest.raises(mk.RecipeError, match=rule):
        mk.check(recipe("bit_head", tokenizer=tokenizer, model=model, training=training(1)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda names: None, "optimizer gave a NoneType, must be a function that takes parameters by name"),
        (lambda names: torch.optim.SGD([nn.Parameter(torch.ones(1))]), "SGD leaves out 2 parameters, 'weight' first"),
        (lambda names: torch.optim.SGD([names["weight"]]), "SGD leaves out 1 parameters, 'bias' first; freeze"),
        (lambda names: torch.optim.SGD([*names.values(), nn.Parameter(torch.ones(1))]), "that are not the player's"),
        (lambda names: torch.optim.LBFGS(names.values()), "LBFGS steps by a closure, must step without one"),
        (lambda names: torch.optim.SGD([]), "its optimizer cannot be made: optimizer got an empty parameter list"),
    ],
)
def test_optimizers(make: Any, said: str) -> None:
    player = mk.Player("net", nn.Linear(2, 2), mk.Rate(0.1), make)
    with pytest.raises(mk.MageKitError, match=f"player 'net': .*{said}"):
        player.enter(make_fabric(torch.device("cpu"), False), player.module.forward)


@pytest.mark.parametrize("given", [torch.optim.SGD, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "sgd"])
def test_what_is_no_maker_of_an_optimizer(given: Any) -> None:
    with pytest.raises(mk.MageKitError, match=r"player 'net': optimizer is .*, must be a function that takes"):
        mk.Player("net", nn.Linear(2, 2), mk.Rate(0.1), given)


def test_batch_norm_of_one_process_among_several_is_refused() -> None:
    from mage_kit.training.players import check_norms

    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    check_norms("critic", net, 1)
    check_norms("critic", nn.SyncBatchNorm.convert_sync_batchnorm(net), 2)
    with pytest.raises(mk.MageKitError, match="player 'critic': 1 is a BatchNorm2d, must be SyncBatchNorm"):
        check_norms("critic", nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), 2)


@pytest.mark.parametrize(("name", "value"), [("x", "abc"), (3, 1.0), ("x", None)])
def test_tallies(name: Any, value: Any) -> None:
    task = Reconstruct(build.vqgan(), steps=1)
    task.context = SimpleNamespace(device=torch.device("cpu"))  # type: ignore[assignment]  # all that tally reads
    task.sums = {}
    with pytest.raises(mk.MageKitError, match=r"tally: .*, must be a name and a number"):
        task.tally(name, value)


def test_a_changed_player_is_not_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = {
        "kind": "reconstruct",
        "steps": 4,
        "batch": 32,
        "log_every": 2,
        "checkpoint_every": 2,
        "precision": "float32",
    }
    mine = recipe("against", training=task)
    run = mk.train(mine, tmp_path / "run", until=2)
    weights = mk.Player.__init__

    def grouped(self: mk.Player, name: str, module: nn.Module, rate: mk.Rate, *rest: Any, **words: Any) -> None:
        weights(self, name, module, rate, lambda names: torch.optim.SGD(names.values()), **words)

    monkeypatch.setattr(mk.Player, "__init__", grouped)
    with pytest.raises(mk.MageKitError, match=r"is of another training: .*; put the task back as it was, or start"):
        mk.train(mine, run, resume=True)
    assert list((run / "checkpoints" / "tokenizer").glob("step-*")), "nothing was removed"


def predictions(model: mk.Mage) -> Tensor:
    return model.logits(build.tokens(model, 2), torch.ones(2, model.spec.grid.size, dtype=torch.bool))


def test_a_sound_head_answers() -> None:
    model = model_of("forward", lambda made: made)
    assert predictions(model).shape == (2, 16, 32) and step(model).terms[0].rows_M is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ids: ids + 100, r"Odd gave ids 1\d\d to 1\d\d, must be from 0 to 31"),
        (lambda ids: ids - 1000, r"Odd gave ids -\d+ to -\d+, must be from 0 to 31"),
        (
            lambda ids: ids[:, 1:],
            r"Odd gave \(2, 15\) torch.int64 as the stream 'tokens', must be \(2, 16\) torch.int64",
        ),
        (lambda ids: ids.float(), r"Odd gave \(2, 16\) torch.float32 as the stream 'tokens'"),
        (lambda ids: ids.tolist(), r"Odd gave list as the stream 'tokens'"),
    ],
)
def test_what_a_tokenizer_gets_wrong_is_named(change: Any, words: str) -> None:
    model = build.mage()

    class Odd(type(model.tokenizer)):  # type: ignore[misc]  # of whatever class the tokenizer is
        def encode_streams(self, images_BCHW: Tensor, names: Any) -> Any:
            streams = super().encode_streams(images_BCHW, names)
            return {**streams, "tokens": change(streams["tokens"])}

    model.tokenizer.__class__ = Odd
    with pytest.raises(mk.MageKitError, match=words):
        model.tokenize(torch.rand(2, 1, 16, 16))


def test_pictures_of_another_size_are_no_images() -> None:
    model = build.mage().eval()
    decode = model.tokenizer.decode
    model.tokenizer.decode = lambda tokens: decode(tokens)[:, :, :, :8]
    with pytest.raises(ValueError, match=r"VQGAN.decode gave \(2, 1, 16, 8\), must be \(2, 1, 16, 16\)"):
        mk.generate(model, 2)
