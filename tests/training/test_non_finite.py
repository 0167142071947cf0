"""Numbers that are none: the step is left out, its module named, the last good checkpoint taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.base.fields import Positive, PositiveFloat, Probability
from mage_kit.decoders import DECODERS, ViTDecoder
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.metrics import read_metrics
from mage_kit.training.train import Loop, train
from mage_kit.training.verdicts import Docket
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(), tmp_path_factory.mktemp("runs") / "unbroken")


class Poison(nn.Module):
    """Passes its input on, until told to spoil it."""

    now = False

    def forward(self, value: Tensor) -> Tensor:
        return value * float("nan") if Poison.now else value


@pytest.fixture(params=[0, 1], ids=["at once", "one step late"])
def lag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How far the host is behind: on a GPU it reads a step's numbers one step late, and nothing else may differ."""
    monkeypatch.setattr("mage_kit.training.train.Docket", lambda _: Docket(request.param))
    return int(request.param)


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
        seed = Loop.seed

        def watched(self: Loop, step: int) -> None:
            Poison.now = self.task.stage == "model" and bad(step, self.state.counters["rollbacks"])
            seed(self, step)

        monkeypatch.setattr(Loop, "seed", watched)
        return small("model.decoder=poisoned", "training.checkpoint_every=5", "training.skip_limit=3")

    yield arrange
    Poison.now = False


def test_a_non_finite_step_is_left_out_and_its_module_named(
    lag: int, poisoned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(poisoned(lambda step, tries: step in (9, 20, 21)), tmp_path / "run")
    told = capsys.readouterr().err
    assert "step 10: loss or gradient not finite, first in the output of 'decoder.weak_spot'" in told
    assert told.count("the step is left out") == 2, "of two in a row the first is looked into"
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["skipped"] == 3 and records[-1]["step"] == 28
    assert all(record["loss"] == record["loss"] for record in records)
    moments = load_file(list_checkpoints(tmp_path / "run" / "checkpoints" / "model")[-1] / "optimizer.safetensors")
    assert float(moments["model/embedding.table/step"]) == 25, "no update was made of a spoilt gradient"


def test_a_line_of_the_log_without_a_single_good_step(poisoned: Any, tmp_path: Path) -> None:
    recipe = poisoned(lambda step, tries: step in (0, 6, 27))
    train(recipe.changed("training", log_every=1, checkpoint_every=1), tmp_path / "run")
    records = read_metrics(tmp_path / "run", "model")
    assert [record["step"] for record in records if "loss" not in record] == [1, 7, 28]
    assert records[-1]["skipped"] == 3


def test_a_checkpoint_from_before_the_first_good_step_is_resumed(poisoned: Any, tmp_path: Path) -> None:
    recipe = poisoned(lambda step, tries: step == 0).changed("training", checkpoint_every=1)
    recipe = recipe.changed("tokenizer_training", steps=1)  # which `until` does not cut short
    train(recipe, tmp_path / "run", until=1)
    train(recipe, tmp_path / "run", resume=True)
    assert read_metrics(tmp_path / "run", "model")[-1]["step"] == 28


def test_a_training_without_a_finite_step_ends_with_an_error(lag: int, poisoned: Any, tmp_path: Path) -> None:
    """Fewer steps than it takes to roll back: nothing was learned, and nothing is written as a model."""
    recipe = poisoned(lambda step, tries: True).changed("training", epochs=0.2, skip_limit=50)
    with pytest.raises(mk.MageKitError, match="none of 3 steps was finite, nothing was learned"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_spoilt_batch_leaves_the_codebook_as_it_was(
    lag: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Codes that follow running means move in the forward pass, before anybody knows whether the step counts."""
    seed, bad = Loop.seed, {"now": False}

    def watched(self: Loop, step: int) -> None:
        bad["now"] = self.task.stage == "tokenizer" and step == 9
        seed(self, step)

    feature_map = mk.VQGAN.feature_map
    spoil = lambda self, images: feature_map(self, images) * (float("nan") if bad["now"] else 1.0)  # noqa: E731
    monkeypatch.setattr(Loop, "seed", watched)
    monkeypatch.setattr(mk.VQGAN, "feature_map", spoil)
    out = train(small("training.epochs=0.2", "tokenizer_training.checkpoint_every=1"), tmp_path / "run")
    tokenizer = load_file(out / "tokenizer" / "tokenizer.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in tokenizer.values())
    assert read_metrics(out, "tokenizer")[-1]["skipped"] == 1


def test_rollbacks_are_remembered_by_a_killed_run(
    poisoned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would walk the same way again, for ever."""
    recipe = poisoned(lambda step, tries: 12 <= step < 18 and not tries)
    passed = Loop._step

    def killed(self: Loop, *words: Any) -> bool:
        if self.state.counters["rollbacks"]:
            raise KeyboardInterrupt
        return passed(self, *words)

    with monkeypatch.context() as once:
        once.setattr(Loop, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    assert read_metrics(tmp_path / "run", "model")[-1]["skipped"] == 3


def test_several_in_a_row_go_back_to_the_last_good_checkpoint(
    lag: int, poisoned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(poisoned(lambda step, tries: 12 <= step < 18 and not tries), tmp_path / "run")
    told = capsys.readouterr().err
    assert "3 steps in a row were not finite; back to step 10 (1 of 2 times)" in told
    records = read_metrics(tmp_path / "run", "model")
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps)) and steps[-1] == 28 and records[-1]["skipped"] == 3
    state = json.loads((list_checkpoints(tmp_path / "run" / "checkpoints" / "model")[-1] / "state.json").read_text())
    assert state["counters"] == {"bad": 0, "finite": 28, "skipped": 3, "rollbacks": 1}


def test_a_run_that_cannot_be_saved_stops_and_says_so(lag: int, poisoned: Any, tmp_path: Path) -> None:
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
    where = name_the_module(
        {"": module}, dict(module.named_parameters()), lambda: module(torch.ones(1, 2)).sum().backward()
    )
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


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0])
def test_images_of_one_colour_train_a_tokenizer(colour: float) -> None:
    """Black ones are common (blank scans, masks): at the first step their gradient once was infinite."""
    for recipe in (small(), mk.Recipe.load(RECIPES / "mage_vitb.json", ["tokenizer.image_size=[64, 64]"])):
        tokenizer = recipe.build_tokenizer()
        tokenizer.start_training()
        images = torch.full((2, tokenizer.channels, *tokenizer.image_size), colour)
        images[1] = torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0))
        tokenizer.objective(images, 0.0, torch.Generator().manual_seed(0)).total.backward()
        gradients = [value.grad for value in tokenizer.parameters() if value.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        assert norm < 1e4, norm
