"""A tokenizer alone in a recipe, contrast without a decoder, and tasks that do not fit their models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.training.metrics import read_metrics
from tests.house.test_core import QUICK
from tests.training.test_training import small


def alone(**changes: Any) -> mk.Recipe:
    data = json.loads(small(*QUICK).to_json())
    task = {**data["tokenizer_training"], "steps": 20, "checkpoint_every": 7, **changes}
    return mk.Recipe.parse({**{k: data[k] for k in ("name", "seed", "data", "tokenizer")}, "training": task})


def test_a_tokenizer_alone_in_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = mk.train(alone(), tmp_path / "whole")
    assert not (out / "model.safetensors").exists() and mk.load_tokenizer(out).spec.codes == 32
    cut = mk.train(alone(), tmp_path / "cut", until=7)
    mk.train(alone(), cut, resume=True)
    whole, again = (mk.load_tokenizer(folder).state_dict() for folder in (out, cut))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    lines = [{line["step"] for line in read_metrics(folder)} for folder in (out, cut)]
    assert lines[1] - lines[0] == {7}, "where it was cut, as at a last step"
    capsys.readouterr()
    mk.train(alone(), out, resume=True)
    assert "is complete; nothing to do" in capsys.readouterr().err
    model = small(*QUICK, f'tokenizer.weights="{out}"')
    assert mk.load(mk.train(model, tmp_path / "model")).tokenizer.spec == mk.load_tokenizer(out).spec
    with pytest.raises(mk.MageKitError, match="holds a tokenizer"):
        mk.load(out)


def test_a_model_of_a_tokenizer_that_was_cut_short_does_not_go_on(tmp_path: Path) -> None:
    """Its checkpoints hold the tokenizer as it was then; trained further, the two would part in silence."""
    ends: list[mk.EndEvent] = []
    cut = mk.train(small(*QUICK), tmp_path / "cut", until=2, on_end=ends.append)
    assert [(end.stage, end.step, end.is_whole) for end in ends] == [("tokenizer", 2, False), ("model", 2, False)]
    with pytest.raises(mk.MageKitError, match=r"was trained on a tokenizer that was cut short; remove '.*model' to"):
        mk.train(small(*QUICK), cut, resume=True)
    shutil.rmtree(cut / "checkpoints" / "model")
    mk.train(small(*QUICK), cut, resume=True)
    whole = mk.train(small(*QUICK), tmp_path / "elsewhere" / "whole")
    first, second = (mk.load(folder).state_dict() for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"training": {"kind": "classify", "epochs": 1, "warmup_epochs": 0, "batch": 8}},
         "$.training.kind and $.model: 'classify' trains a model of kind 'classifier', the model is of kind 'mage'"),
        ({"model": None}, "$.training.kind and $.model: 'masked' trains a model of kind 'mage', the model is null"),
        ({"tokenizer_training": {"kind": "masked", "epochs": 1, "warmup_epochs": 0, "batch": 8}},
         "$.tokenizer_training.kind: 'masked', must be a task that makes a tokenizer"),
        ({"training": {"kind": "reconstruct", "steps": 3, "batch": 8}},
         "$.model and $.training.kind: 'reconstruct' makes a tokenizer alone; model must be null"),
        ({"training": {"kind": "contrast", "epochs": 1, "warmup_epochs": 0, "batch": 8}},
         "$.model.decoder and $.training.kind: nothing reads a decoder here, must be null"),
    ],
)  # fmt: skip
def test_tasks_and_models_that_do_not_fit(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(mk.RecipeError) as caught:
        mk.check(small().extended(**changes))
    assert any(line in problem for problem in caught.value.problems), caught.value.problems


CONTRAST = json.dumps([{"kind": "info_nce", "weight": 1.0, "hidden": 32, "output": 16, "gate": 0.6}])


def contrast(*changes: str) -> mk.Recipe:
    """SimCLR on digits' tokens: two views, nothing masked, no decoder."""
    form = ("model.decoder=null", "model.padding=null", "model.drop=0.0", "data.augment.views=2",
            'model.mask_ratio={"kind": "fixed", "ratio": 0.0}', f"model.losses={CONTRAST}")  # fmt: skip
    recipe = small(*form, "tokenizer_training.precision=float32", "tokenizer_training.steps=30")
    own = {name: value for name, value in recipe.training.model_dump(mode="json").items() if name != "samples_every"}
    task = {**own, "kind": "contrast", "precision": "float32", "epochs": 6, "checkpoint_every": 20, "log_every": 10}
    return mk.Recipe.parse(json.loads(recipe.extended(training=task).to_json()), changes)


@pytest.mark.slow
def test_contrast_learns_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = mk.train(contrast(), tmp_path / "whole")
    records = read_metrics(whole, "model")
    assert records[-1]["info_nce"] < 0.9 * records[0]["info_nce"] and "accuracy" not in records[0]
    model = mk.load(whole)
    assert model.decoder is None and not list(model.heads) and model.features(torch.rand(3, 1, 32, 32)).shape == (3, 32)
    cut = mk.train(contrast(f'tokenizer.weights="{whole}"', "tokenizer_training=null"), tmp_path / "cut", until=33)
    mk.train(contrast(f'tokenizer.weights="{whole}"', "tokenizer_training=null"), cut, resume=True)
    first, second = (mk.load(folder).state_dict() for folder in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(mk.RecipeError, match="contrast predicts nothing; leave the loss out, or take the task masked"):
        mk.check(
            contrast(
                'model.losses=[{"kind": "masked_cross_entropy", "weight": 1.0}]',
                'model.decoder={"kind": "vit", "dim": 32, "depth": 1, "heads": 2}',
            )
        )
