"""Parts written outside of mage_kit, by the names that it exports: a task with two players, a loss on a second stream,
a head. They are real: each learns on digits; and checks that a mutant must fail show that the checks can."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.jobs.tokenize import tokenize
from mage_kit.recipes.cached import on_tokens
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.metrics import read_metrics
from mage_kit.training.train import Loop
from tests.test_recipe import RECIPES

PLUGINS = Path(__file__).parent / "plugins"
CARRIED = {"log_every": 10, "checkpoint_every": 20, "precision": "float32"}
TOKENIZER = {
    "kind": "vqgan", "weights": None, "image_size": [32, 32], "channels": 1, "base_channels": 8,
    "multipliers": [1, 2, 2, 4], "res_blocks": 1, "norm_groups": 4, "codebook_size": 32, "codebook_dim": 8,
}  # fmt: skip


def recipe(name: str, **sections: Any) -> mk.Recipe:
    demo = json.loads((RECIPES / "digits_demo.json").read_text())
    data = {**demo["data"], "augment": {**demo["data"]["augment"], "area": [0.8, 1.0]}}
    base = {"name": name, "plugins": [f"tests.plugins.{name}"], "seed": 0, "data": data, "tokenizer": TOKENIZER}
    return mk.Recipe.parse({**base, "kernels": {"attention": "matmul"}, **sections})


def masked(losses: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    part = {"dim": 64, "heads": 4, "dropout": 0.0}
    return {
        "kind": "mage", "ratio_group": 1, "mask_ratio": {"kind": "uniform", "low": 0.5, "high": 0.9},
        "encoder": {"kind": "vit", "depth": 2, **part}, "decoder": {"kind": "vit", "depth": 1, **part},
        "padding": {"kind": "class_token"}, "embedding": {"dropout": 0.0}, "losses": losses,
        "generation": {"schedule": {"kind": "cosine"}, "selection": {"kind": "halton"}, "steps": 6}, **changes,
    }  # fmt: skip


def training(epochs: float = 8, **changes: Any) -> dict[str, Any]:
    own = {"kind": "masked", "epochs": epochs, "warmup_epochs": 1, "base_lr": 4e-3, "batch": 128}
    return {**own, **CARRIED, **changes}


@pytest.mark.parametrize(("name", "lines"), [("against", 60), ("second_stream", 40), ("bit_head", 60)])
def test_they_are_short_and_import_what_is_exported(name: str, lines: int) -> None:
    text = (PLUGINS / f"{name}.py").read_text()
    assert len(text.splitlines()) < lines
    roots = {
        word.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for word in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert roots <= {"__future__", "collections", "torch", "mage_kit"}
    assert "mage_kit." not in text.replace("of mage_kit.", "").replace("mage_kit,", "")
    names = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mk"
    }
    assert names <= set(mk.__all__)


# -- two players -------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(Loop, "_move", lambda self, player, step: player.name == "critic" or move(self, player, step))
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
    events: list[mk.StepEvent] = []
    mk.train(against(steps=12, critic_from=8), tmp_path / "run", on_step=events.append)
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


# -- a second stream ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trained tokenizers of the same form and other seeds, each by a recipe of its own."""
    folder = tmp_path_factory.mktemp("tokenizers")
    task = {"kind": "reconstruct", "steps": 150, "batch": 64, "lr": 2e-3, **CARRIED, "checkpoint_every": 1000}
    return [mk.train(recipe("second_stream", training=task, seed=seed), folder / f"{seed}") for seed in (1, 2)]


def two_streams(others: list[Path], **changes: Any) -> mk.Recipe:
    """The first tokenizer's codes go in, the second one's are predicted."""
    first, second = others
    losses = [{"kind": "named_codes", "weight": 1.0, "stream": "codes"}]
    model = masked(losses, targets={"codes": {**TOKENIZER, "weights": str(second)}})
    tokenizer = {**TOKENIZER, "weights": str(first)}
    return recipe("second_stream", tokenizer=tokenizer, model=model, training=training(24, **changes))


@torch.no_grad()
def predicts_the_second(folder: Path, images: torch.Tensor) -> None:
    """Masked codes of the second tokenizer are predicted far better than by chance; its codes are not the first's."""
    model = mk.load(folder)
    first, second = (model.tokenizer.encode(images), model.targets["codes"].encode(images))
    assert float((first == second).double().mean()) < 0.2
    ratio = torch.full((len(images),), 0.6, dtype=torch.float64)
    noise = torch.rand(len(images), 16, generator=torch.Generator().manual_seed(0))
    plan = model.plan(ratio, noise)
    masks = mk.BatchMasks(ratio, int(model.n_masked(ratio).sum()), 1)
    (term,) = model({"tokens": first, "codes": second}, plan, masks).terms
    found = float((term.hits_M * plan.weight_M).sum() / plan.weight_M.sum())
    share = float(torch.bincount(second.flatten()).max() / second.numel())
    assert found > share + 0.08, f"{found:.3f} of the second tokenizer's codes, the commonest is {share:.3f} of all"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    dataset = mk.Recipe.load(RECIPES / "digits_demo.json").build_dataset()
    return torch.stack([torch.from_numpy(dataset.still(index).views[0]) for index in range(0, 1600, 8)]).float() / 255


@pytest.mark.slow
def test_a_loss_on_a_second_stream_from_images_and_from_a_cache(
    others: list[Path], images: torch.Tensor, tmp_path: Path
) -> None:
    live = two_streams(others)
    mk.train(live, tmp_path / "live")
    cache = tokenize(live, tmp_path / "cache", crops=4)
    held = load_file(cache / "tokens-00000.safetensors")
    assert held["tokens"].shape == held["codes"].shape and not torch.equal(held["tokens"], held["codes"])
    mk.train(on_tokens(live, cache), tmp_path / "cached")
    for name in ("live", "cached"):
        records = read_metrics(tmp_path / name, "model")
        assert records[-1]["named_codes"] < 0.85 * records[0]["named_codes"]
        predicts_the_second(tmp_path / name, images)
    alone = live.extended(model=masked([{"kind": "masked_cross_entropy", "weight": 1.0}]))
    bare = tokenize(alone, tmp_path / "bare", crops=1)
    with pytest.raises(mk.RecipeError, match=r"no stream 'codes', which the model reads; the cache holds tokens"):
        mk.train(on_tokens(live, bare), tmp_path / "lacking")
    exchanged = live.changed("model", targets={"codes": {**TOKENIZER, "weights": str(others[0])}})
    with pytest.raises(mk.RecipeError, match=r"targets.codes: weights_sha256 is"):
        mk.train(on_tokens(exchanged, cache), tmp_path / "exchanged")


@pytest.mark.slow
def test_a_mutant_that_reads_the_wrong_stream_fails(
    others: list[Path], images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = mk.Mage._inputs

    def wrong(self: mk.Mage, loss: Any, streams: Any, *rest: Any) -> Any:
        return inputs(self, loss, {**streams, "codes": streams["tokens"]}, *rest)

    with monkeypatch.context() as mutant:
        mutant.setattr(mk.Mage, "_inputs", wrong)
        mk.train(two_streams(others), tmp_path / "run")
    with pytest.raises(AssertionError, match="of the second tokenizer's codes"):
        predicts_the_second(tmp_path / "run", images)


@pytest.mark.slow
def test_an_input_that_is_not_quantised(others: list[Path], tmp_path: Path) -> None:
    """Paper, supplement, Table 6: the encoder sees features, codes are predicted; such a model cannot generate."""
    losses = [{"kind": "masked_cross_entropy", "weight": 1.0}]
    tokenizer = {**TOKENIZER, "weights": str(others[0])}
    mine = recipe("second_stream", tokenizer=tokenizer, model=masked(losses, input="features"), training=training(24))
    mk.train(mine, tmp_path / "run")
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    model = mk.load(tmp_path / "run")
    assert (
        model.spec.width == 8 and not model.spec.discrete and model.features(torch.rand(2, 1, 32, 32)).shape == (2, 64)
    )
    with pytest.raises(mk.PartsError, match="generation"):
        mk.generate(model, 1)


# -- a head ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_head_of_its_own_trains_and_generates(others: list[Path], tmp_path: Path) -> None:
    losses = [{"kind": "masked_prediction", "weight": 1.0}]
    tokenizer = {**TOKENIZER, "weights": str(others[0])}
    model = masked(losses, heads={"tokens": {"kind": "bits", "hidden": 64}})
    mine = recipe("bit_head", tokenizer=tokenizer, model=model, training=training(24, samples_every=24.0))
    out = mk.train(mine, tmp_path / "run")
    records = read_metrics(out, "model")
    assert records[0]["masked_prediction"] < 1.1 * records[0]["chance"] and "accuracy" in records[0]
    assert records[-1]["masked_prediction"] < 0.975 * records[0]["chance"], "bits of a code share little"
    assert (out / "samples").is_dir()
    trained = mk.load(out)
    made, other = (mk.generate(trained, 200, seed=seed) for seed in (0, 1))
    assert int(made.ids_BL.min()) >= 0 and int(made.ids_BL.max()) < 32 and not torch.equal(made.ids_BL, other.ids_BL)
    assert torch.equal(made.ids_BL, mk.generate(trained, 200, seed=0, batch=7).ids_BL), "image i follows (seed, i)"
    real = _real_codes(trained)
    untrained = mk.generate(mk.build(mine, trained.tokenizer).model, 200)
    gaps = [float((_bits(each) - _bits(real)).abs().mean()) for each in (made.ids_BL, untrained.ids_BL)]
    assert gaps[0] < 0.6 * gaps[1], f"means of bits by place: {gaps[0]:.3f} from the digits', untrained {gaps[1]:.3f}"
    with pytest.raises(mk.RecipeError, match="needs logits over codes, BitHead gives none; use masked_prediction"):
        mk.check(mine.changed("model", losses=[{"kind": "masked_cross_entropy", "weight": 1.0}]))


def _real_codes(model: mk.Mage) -> torch.Tensor:
    dataset = mk.Recipe.load(RECIPES / "digits_demo.json").build_dataset()
    views = [torch.from_numpy(dataset.still(index).views[0]) for index in range(0, 1797, 6)]
    return model.tokenizer.encode(torch.stack(views).float() / 255)


def _bits(ids_BL: torch.Tensor) -> torch.Tensor:
    """Mean of each bit at each place: what a head of independent bits can learn of digits' codes."""
    return torch.stack([((ids_BL >> bit) & 1).double().mean(dim=0) for bit in range(5)])
