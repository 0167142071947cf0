"""Training classifiers: the published step re-derived, runs that resume, what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mage_kit as mk
from mage_kit.base.draws import derive
from mage_kit.datasets.subset import few_of_each
from mage_kit.optimizers import set_lr
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.loader import Order, batches
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks.mixing import draw_mix
from mage_kit.training.train import train
from mage_kit.training.validation import measure_accuracy
from mage_kit.training.warm_start import fill_model
from mage_kit.training.weight_folders import WeightFolder
from tests.loops import loop_of
from tests.recipes.test_recipe import RECIPES
from tests.reference.plain_classifier import first_adamw_step, plain_logits, plain_loss, plain_targets
from tests.training.test_training import SMALL, small

SIZES = [change for change in SMALL if change.startswith(("model.encoder", "tokenizer."))]
FIXED = ("training.precision=float32", "kernels.attention=matmul")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("training.epochs=0.5"), tmp_path_factory.mktemp("runs") / "before")


def tuned(before: Path, *changes: str) -> mk.Recipe:
    """The shipped fine-tuning of digits at the small run's sizes."""
    own = (f'pretrained={{"weights": "{before}", "freeze": false}}', "training.epochs=1", "training.warmup_epochs=0.2")
    return mk.Recipe.load(RECIPES / "finetune_digits.json", [*SIZES, *own, *FIXED, *changes])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("training.mixup=0.8", "training.batch=127"), r"\$.training.batch: 127, must be even: mixup take"),
        (("training.batch=60", "training.micro_batch=16"), r"\$.training.micro_batch: 16, must divide"),
        (("model.head=probe",), r"\$.model.head and \$.pretrained.freeze: a probe's encoder is frozen"),
        (("pretrained=null",), r"\$.tokenizer.weights and \$.pretrained: both null"),
        (
            ("training.images_per_class=2",),
            r"\$.training.batch: 128, must be at most images_per_class x .* \(20\)",
        ),
        (("data=null",), r"\$.data: missing, training needs it"),
        (('data={"kind": "token_cache", "path": "x"}', "training.cutmix=1.0"), "pixels are mixed before the tokenizer"),
    ],
)
def test_what_does_not_fit_is_told_by_check(changes: tuple[str, ...], said: str) -> None:
    with pytest.raises(mk.RecipeError, match=said):
        mk.check(mk.Recipe.load(RECIPES / "finetune_digits.json", changes))


def test_what_does_not_fit_the_data_is_told_before_there_is_a_folder(before: Path, tmp_path: Path) -> None:
    for changes, said in (
        (("model.classes=7",), r"\$.model.classes and \$.data: 7, the data has 10 classes"),
        (("model.encoder.heads=4",), r"\$.model.encoder.heads: 4, the pretrained one has 2"),
        (
            ("training.images_per_class=200", "training.batch=64"),
            "images_per_class: 200, class '0' has 155 images",
        ),
        (("pretrained.weights=nowhere",), "nowhere"),
        (
            ('training.validation={"kind": "image_folder", "path": "nowhere"}',),
            r"\$.training.validation.path: 'nowhere', must be a folder",
        ),
    ):
        with pytest.raises(mk.MageKitError, match=said):
            train(tuned(before, *changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(mk.RecipeError, match=r"\$.model: of kind classifier, must be a masked model"):
        mk.Recipe.load(RECIPES / "finetune_digits.json").build_model()


# -- the published step ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_a_fine_tuning_step_is_the_one_written_out_by_hand(before: Path, mixup: float, cutmix: float) -> None:
    """Pixels mixed before the tokenizer, soft labels, layer-wise rates; drop path and dropout off."""
    recipe = tuned(
        before, f"training.mixup={mixup}", f"training.cutmix={cutmix}", "training.optimizer.layer_decay=0.5",
        "model.drop_path=0.0",
        "model.embedding.dropout=0.0", "model.encoder.dropout=0.0",
        "training.batch=16", "training.micro_batch=4",
    )  # fmt: skip
    dataset = recipe.build_dataset()
    model = recipe.build_classifier(mk.load_tokenizer(before))
    fill_model(model, WeightFolder(before), recipe.name, whole=False)
    with torch.no_grad():
        model.head.weight.normal_(
            std=0.3, generator=torch.Generator().manual_seed(0)
        )  # else all but the head stands still
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loop = loop_of(recipe, parts=mk.Parts(model.tokenizer, model))
    (batch,) = batches(dataset, Order(len(dataset), 16, 0), 3, 4, recipe.seed, 0)
    (loss,) = loop.gradients(batch, 3)
    (player,) = loop.players
    set_lr(player.optimizer, player.rate.peak)
    player.optimizer.step()

    images = batch.images_TCHW.float() / 255
    random = np.random.Generator(np.random.PCG64(derive(recipe.seed, "mix", 3)))
    mix = draw_mix((32, 32), mixup, cutmix, 0.5, random)
    other = images[[place ^ 1 for place in range(16)]]
    if mix.box is None:
        mixed = mix.share * images + (1 - mix.share) * other
    else:
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[mix.box[0] : mix.box[1], mix.box[2] : mix.box[3]] = True
        mixed = torch.where(inside, other, images)
    ids = mk.load_tokenizer(before).encode(mixed)
    named = [name for name, _ in model.trainable()]
    weights = {name: start[name].clone().requires_grad_(name in named) for name in start}
    assert batch.labels_B is not None
    wanted = plain_targets(batch.labels_B.tolist(), 10, 0.1, mix.share)
    blocks = model.blocks
    total = plain_loss(plain_logits(weights, ids, heads=2, blocks=blocks), wanted)
    torch.testing.assert_close(loss, total.detach(), rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(total, [weights[name] for name in named])
    now = model.state_dict()
    peak = 2e-3 * 16 / 256
    for name, gradient in zip(named, gradients, strict=True):
        layer = blocks + 1 if name.startswith("embedding") else 0
        if name.startswith("encoder.blocks."):
            layer = blocks - int(name.split(".")[2])
        decay = 0.05 if start[name].ndim > 1 else 0.0
        expected = first_adamw_step(start[name], gradient, peak * 0.5**layer, decay, (0.9, 0.999))
        settled = gradient.abs() > 1e-2 * gradient.abs().max()  # below, the sign of the first step is rounding's
        assert settled.float().mean() > 0.2 or name == "embedding.table", name
        torch.testing.assert_close(now[name][settled], expected[settled], rtol=1e-4, atol=2e-7)


def test_micro_batches_change_nothing(before: Path) -> None:
    made = []
    for micro in (4, 16):
        recipe = tuned(
            before, "training.mixup=0.8", "training.cutmix=1.0", "training.batch=16", f"training.micro_batch={micro}",
            "model.drop_path=0.0", "model.embedding.dropout=0.0", "model.encoder.dropout=0.0",
        )  # fmt: skip
        model = recipe.build_classifier(mk.load_tokenizer(before))
        fill_model(model, WeightFolder(before), recipe.name, whole=False)
        loop = loop_of(recipe, parts=mk.Parts(model.tokenizer, model))
        images = loop.job.images
        (batch,) = batches(images, Order(len(images), 16, 0), 2, 3, 0, 0)
        loop.gradients(batch, 2)
        made.append(
            {name: parameter.grad.clone() for name, parameter in model.trainable() if parameter.grad is not None}
        )
    for name, gradient in made[0].items():
        torch.testing.assert_close(gradient, made[1][name], rtol=1e-4, atol=1e-6)


# -- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = ("training.ema=0.9", "training.mixup=0.2", "training.validate_every=0.5", "training.checkpoint_every=5")
    return mk.train(tuned(before, *changes), tmp_path_factory.mktemp("runs") / "tuned")


def test_a_run_leaves_a_classifier_and_its_accuracy(before: Path, finished: Path) -> None:
    model = mk.load_classifier(finished)
    told = json.loads((finished / "eval" / "accuracy.json").read_text())["rows"]
    validation = mk.Recipe.load(finished / "recipe.json").build_validation()
    assert validation is not None and len(validation) == 200
    measured = measure_accuracy(model, validation)
    assert told["raw"] == pytest.approx(measured.as_dict()) and set(told) == {"raw", "ema"}
    mean = measure_accuracy(mk.load_classifier(finished, weights="ema"), validation)
    assert told["ema"] == pytest.approx(mean.as_dict()) and told["ema"]["loss"] != told["raw"]["loss"]
    hits = sum(int(model.logits(torch.from_numpy(sample.views[0])[None].float() / 255).argmax()) == sample.label
               for sample in (validation.still(index) for index in range(50)))  # fmt: skip
    few = measure_accuracy(model, few_of(validation, range(50)))
    assert few.top1 == hits / 50 and few.images == 50 and few.top5 >= few.top1
    records = read_metrics(finished, "validation")
    assert [record["step"] for record in records] == [6, 12] and records[-1]["top1"] == told["raw"]["top1"]
    with pytest.raises(mk.MageKitError, match="holds a classifier"):
        mk.load(finished)


def few_of(dataset: mk.Dataset, places: range) -> mk.Dataset:
    from mage_kit.datasets.subset import Subset

    return Subset(dataset, list(places))


def test_resumed_as_it_was(before: Path, finished: Path, tmp_path: Path) -> None:
    recipe = mk.Recipe.load(finished / "recipe.json")
    out = train(recipe, tmp_path / "run", until=6)
    assert not (out / "model.safetensors").exists()
    lines = [line for line in (out / "metrics.jsonl").read_text().splitlines() if '"validation"' not in line]
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")  # as if killed between checkpoint and validation
    mk.train(recipe, out, resume=True)
    mine, theirs = (mk.load_classifier(folder).state_dict() for folder in (out, finished))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    records = read_metrics(out, "validation")
    assert records == read_metrics(finished, "validation")


def test_a_probe_with_lars_resumes_as_it_was(before: Path, tmp_path: Path) -> None:
    recipe = tuned(
        before, "pretrained.freeze=true", "model.head=probe", "training.optimizer=lars", "training.base_lr=0.2",
        "training.checkpoint_every=4",
        "model.drop_path=0.0",
    )  # fmt: skip
    whole = train(recipe, tmp_path / "whole")
    parts = train(recipe, tmp_path / "parts", until=4)
    train(recipe, parts, resume=True)
    mine, theirs = (mk.load_classifier(folder).state_dict() for folder in (parts, whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    before_it, after = mk.load(before).state_dict(), theirs
    assert all(
        torch.equal(before_it[name], after[name]) for name in after if name.startswith(("embedding", "encoder.blocks"))
    )
    assert float(after["batch_norm.variance"].sub(1).abs().max()) > 0


def test_few_images_of_each_class(before: Path, tmp_path: Path) -> None:
    data = tuned(before).build_dataset()
    few = few_of_each(data, 10, 0)
    assert len(few) == 100 and np.bincount(few.labels()).tolist() == [10] * 10
    assert few.places == few_of_each(data, 10, 0).places != few_of_each(data, 10, 1).places
    recipe = tuned(before, "training.images_per_class=10", "training.batch=50", "training.validation=null")
    out = train(recipe, tmp_path / "run")
    assert read_metrics(out, "classifier")[-1]["step"] == 2 and not (out / "eval").exists()
    assert json.loads((out / "data.json").read_text())["images"] == len(data), "which, follows from the seed"


def test_validation_that_fails_costs_no_classifier(
    before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images that went away while it was trained."""

    def gone(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr("mage_kit.training.validation.measure_accuracy", gone)
    out = train(tuned(before, "training.validate_every=0.5"), tmp_path / "run")
    said = capsys.readouterr().err
    assert "step 6: validation not done (RuntimeError: the disk is gone)" in said and "accuracy not measured" in said
    assert mk.load_classifier(out).classes == 10 and not (out / "eval").exists()


def test_tokens_of_another_tokenizer_are_refused(before: Path, tmp_path: Path) -> None:
    recipe = small("training.epochs=0.2", "tokenizer_training.steps=41")
    other = train(recipe, tmp_path / "other")
    cache = tokenize(small(f'tokenizer.weights="{other}"', "data.part=training"), tmp_path / "cache", crops=1)
    changes = (f'data={{"kind": "token_cache", "path": "{cache}"}}', "training.validation=null")
    with pytest.raises(mk.MageKitError, match="tokenizer"):
        train(tuned(before, *changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
