"""Class-conditional training: a frozen encoder from another run, labels that reach the decoder, what does not fit."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mage_kit as mk
from mage_kit.base.draws import derive, keys, uniforms
from mage_kit.planning import walk_step
from mage_kit.planning.walk import Numbers
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.loader import Order, batches
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks.masked import Masked
from mage_kit.training.tasks.pieces import Piece
from mage_kit.training.train import train
from mage_kit.training.warm_start import fill_model
from mage_kit.training.weight_folders import WeightFolder
from tests.loops import loop_of
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import SMALL, small

CLASSES = '{"kind": "class_vit", "classes": 10, "dim": 32, "depth": 1, "heads": 2}'


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=0.5"), tmp_path_factory.mktemp("runs") / "before")


def conditional(before: Path, *changes: str) -> mk.Recipe:
    """The small recipe with a class-conditional decoder on the encoder of another run."""
    start = f'pretrained={{"weights": "{before}", "freeze": true}}'
    fixed = ("training.precision=float32", "kernels.attention=matmul")  # what is measured may differ from run to run
    return small(f"model.decoder={CLASSES}", start, *fixed, *changes)


@pytest.fixture(scope="module")
def trained(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = conditional(before, "training.ema=0.9", "training.samples_every=1")
    return mk.train(recipe, tmp_path_factory.mktemp("runs") / "after")


def test_the_encoder_stays_as_it_was(before: Path, trained: Path) -> None:
    old, new = mk.load(before), mk.load(trained)
    for name in ("embedding", "encoder", "tokenizer"):
        mine, theirs = getattr(new, name).state_dict(), getattr(old, name).state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
    records = read_metrics(trained, "model")
    assert records[-1]["loss"] < records[0]["loss"]
    assert not [record for record in read_metrics(trained) if record["stage"] == "tokenizer"], "it is the other run's"
    assert list((trained / "samples").iterdir())
    assert mk.generate(mk.load(trained, weights="ema"), 3).labels_B is not None


def test_what_is_frozen_is_not_trained_and_drops_nothing(before: Path) -> None:
    recipe = conditional(before)
    model = recipe.build_model()
    with pytest.raises(mk.RecipeError, match="knows the tokens of another tokenizer"):
        fill_model(model, WeightFolder(before), recipe.name, whole=False)
    model = recipe.build_model(mk.load_tokenizer(before))
    fill_model(model, WeightFolder(before), recipe.name, whole=False)
    model.train()
    assert model.decoder.training and not model.encoder.training and not model.embedding.training
    names = {name.split(".")[0] for name, _ in model.trainable()}
    assert names == {"decoder", "heads"}, names
    free = recipe.extended(pretrained={"weights": str(before), "freeze": False})
    model = free.build_model(mk.load_tokenizer(before))
    fill_model(model, WeightFolder(before), free.name, whole=False)
    assert {"embedding", "encoder"} <= {name.split(".")[0] for name, _ in model.trainable()}


def test_labels_reach_the_decoder_and_some_are_withheld(before: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ones follows from (seed, epoch, image); all else is the image's own label."""
    recipe = conditional(before, "model.decoder.label_dropout=0.3", "training.micro_batch=32")
    seen: list[torch.Tensor] = []
    prepare = Masked.prepare

    def spy(self: Masked, micro: Piece, step: mk.TrainingStep) -> Piece:
        work = prepare(self, micro, step)
        assert work.condition is not None
        seen.append(work.condition.labels_B)
        return work

    monkeypatch.setattr(Masked, "prepare", spy)
    dataset, model = recipe.build_dataset(), recipe.build_model(mk.load_tokenizer(before))
    fill_model(model, WeightFolder(before), recipe.name, whole=False)
    loop = loop_of(recipe, parts=mk.Parts(model.tokenizer, model))
    (batch,) = batches(dataset, Order(len(dataset), 128, 0), 20, 21, 0, 0)
    loop.gradients(batch, 20)
    wanted = torch.tensor([dataset.label(int(index)) for index in batch.index_B])
    told = torch.cat(seen)
    withheld = uniforms(keys(recipe.seed, "label", batch.index_B, batch.epoch), 1)[:, 0] < 0.3
    assert len(seen) == 4 and torch.equal(told, torch.where(withheld, -1, wanted))
    assert 20 <= int(withheld.sum()) <= 60
    grads = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in grads} == {"decoder", "heads"}


def test_guided_logits_differ_by_label(trained: Path) -> None:
    model = mk.load(trained)
    assert model.decoding.guidance is None
    ids, masked = torch.zeros(1, 16, dtype=torch.int64), torch.ones(1, 16, dtype=torch.bool)
    told = [model.logits(ids, masked, mk.Condition(torch.tensor([label])), guidance=3.0) for label in (1, 8)]
    assert not torch.allclose(*told, rtol=1e-3), "two epochs are enough for labels to say something"
    assert mk.generate(model, 4, labels=1, guidance=mk.Guidance(scale=3.0)).labels_B is not None
    again = mk.Recipe.of(mk.load(trained))
    assert (
        again.model.decoder.kind == "class_vit"
        and mk.load(mk.save(model, trained.parent / "copy")).decoder.classes == 10
    )


def test_what_does_not_fit_is_told_before_there_is_a_folder(before: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cases = [
        (("model.decoder.classes=7",), r"\$.model.decoder.classes and \$.data: 7, the data has 10 classes"),
        (("model.encoder.heads=4",), r"\$.model.encoder.heads: 4, the pretrained one has 2"),
        (("model.embedding.norm=false",), r"\$.model.embedding.norm: False, the pretrained one has True"),
        (("pretrained.weights=nowhere",), r"\$.pretrained.weights: .*nowhere.*name one with --set pretrained.weights"),
    ]
    for changes, said in cases:
        with pytest.raises(mk.RecipeError, match=said):
            train(conditional(before, *changes), out)
        assert not out.exists()


def test_guidance_needs_a_decoder_that_is_told_the_class() -> None:
    with pytest.raises(
        mk.RecipeError, match=r"\$.model.generation.guidance and \$.model: guidance: given, but ViTDecoder takes no"
    ):
        mk.check(small('model.generation.guidance={"scale": 2.0}'))


def test_resumed_as_it_was(before: Path, trained: Path, tmp_path: Path) -> None:
    recipe = conditional(before, "training.ema=0.9", "training.samples_every=1", "training.checkpoint_every=10")
    out = train(recipe, tmp_path / "run", until=13)
    train(recipe, out, resume=True)
    mine, theirs = (mk.load(folder).state_dict() for folder in (out, trained))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_shipped_recipe_on_digits_trains_after_the_one_it_names(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = mk.Recipe.load(RECIPES / "class_conditional_digits.json")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mk.RecipeError, match=r"runs/digits.*train it first"):
        train(recipe, tmp_path / "run")
    small_sizes = [change for change in SMALL if not change.startswith(("tokenizer_training", "model.decoder"))]
    recipe = mk.Recipe.load(RECIPES / "class_conditional_digits.json", small_sizes)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(before)
    assert mk.generate(mk.load(train(recipe, tmp_path / "run")), 2).images_BCHW.shape == (2, 1, 32, 32)


def test_the_plan_counts_no_backward_pass_through_what_is_frozen() -> None:
    """Operations against torch's counter."""
    changes = ['pretrained={"weights": "anywhere", "freeze": true}', f"model.decoder={CLASSES}", "data.augment.views=1"]
    model = small(*changes).build_model().train()
    plan = model.plan(torch.full((32,), 0.7, dtype=torch.float64), torch.rand(32, 16))
    masks = mk.losses.BatchMasks(torch.full((32,), 0.7), int(plan.weight_M.sum()), 1)
    ids = torch.randint(32, (32, 16))
    with FlopCounterMode(display=False) as counter:
        output = model(ids, plan, masks, condition=mk.Condition(torch.zeros(32, dtype=torch.int64)))
        output.terms[0].total.backward()
    costs = walk_step(mk.check(small(*changes)).model, 32, 0.7, Numbers(4, 1, "matmul"))
    planned = sum(cost.training for cost in costs.values())
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.05)
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


@pytest.fixture
def partly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digits in a tar file, every third of them without a label."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digits = small().build_dataset()
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "digits.tar", "w") as tar:
        for index in range(256):
            picture = io.BytesIO()
            digits.image(index).save(picture, format="PNG")
            members = {"png": picture.getvalue()}
            if index % 3:
                members["cls"] = str(digits.label(index)).encode()
            for kind, content in members.items():
                info = tarfile.TarInfo(f"{index:04d}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return tmp_path / "tars"


def test_images_without_a_label_are_images_of_no_known_class(
    before: Path, partly: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live and from cached tokens, which carry the labels on."""
    data = {"kind": "tar_shards", "path": str(partly), "augment": {"flip": 0.0}}
    recipe = conditional(before, "model.decoder.label_dropout=0.0", f'tokenizer.weights="{before}"')
    recipe = recipe.extended(data=data)
    cached = on_tokens(recipe, tokenize(recipe, tmp_path / "tokens", crops=1))
    prepare, seen = Masked.prepare, {}
    for name, source in (("live", recipe), ("cached", cached)):
        told: list[torch.Tensor] = []

        def spy(self: Masked, micro: Piece, step: mk.TrainingStep, told: list[torch.Tensor] = told) -> Piece:
            work = prepare(self, micro, step)
            assert work.condition is not None
            told.append(work.condition.labels_B)
            return work

        monkeypatch.setattr(Masked, "prepare", spy)
        train(source, tmp_path / name)
        seen[name] = torch.cat(told)
        dataset = source.build_dataset()
        order, batch = Order(len(dataset), 128, derive(recipe.seed, "model")), []
        for step in range(len(told)):
            batch += order.indices(step)[1]
        wanted = [-1 if dataset.label(index) is None else dataset.label(index) for index in batch]
        assert seen[name].tolist() == wanted and 0.25 < np.mean([label == -1 for label in wanted]) < 0.42
    assert torch.equal(seen["live"], seen["cached"])


@pytest.mark.slow
def test_a_run_on_two_processes(before: Path, tmp_path: Path) -> None:
    """Each process fills in the encoder that the recipe names."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(conditional(before, "training.epochs=0.5").to_json())
    command = [sys.executable, "-m", "mage_kit.cli", "train", str(recipe), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--processes", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    old, new = mk.load(before).encoder.state_dict(), mk.load(tmp_path / "run").encoder.state_dict()
    assert all(torch.equal(new[name], old[name]) for name in old)
