"""The shipped recipes of classifiers: they check, and state the settings of the paper."""

from __future__ import annotations

import json

import pytest

import mage_kit as mk
from tests.recipes.test_recipe import RECIPES

SHIPPED = ["finetune_vitb", "finetune_vitl", "scratch_vitb", "scratch_vitl", "finetune_digits", "scratch_digits"]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_check_and_state_every_number(name: str) -> None:
    path = RECIPES / f"{name}.json"
    recipe = mk.Recipe.load(path)
    assert recipe.model is not None and recipe.model.kind == "classifier" and recipe.name == name
    model = mk.check(recipe).model
    assert isinstance(model, mk.MageClassifier)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert json.loads(recipe.to_json()) == {k: v for k, v in json.loads(path.read_text()).items() if k != "$schema"}


def test_the_papers_settings() -> None:
    """Tables 12 and 13."""
    for size, decay, path, epochs, scratch in (("b", 0.65, 0.1, 100, 300), ("l", 0.75, 0.2, 50, 200)):
        fine = mk.Recipe.load(RECIPES / f"finetune_vit{size}.json")
        assert fine.model is not None and fine.training is not None
        told = fine.training.model_dump()
        wanted = {
            "batch": 1024, "base_lr": 2.5e-4, "warmup_epochs": 5,
            "epochs": epochs,
            "optimizer": {"kind": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.05, "layer_decay": decay},
            "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0,
            "clip": None, "min_lr": 1e-6, "ema": None,
        }  # fmt: skip
        assert {name: told[name] for name in wanted} == wanted and fine.model.drop_path == path
        raw = mk.Recipe.load(RECIPES / f"scratch_vit{size}.json")
        assert raw.model is not None and raw.training is not None and raw.pretrained is None
        told = raw.training.model_dump()
        wanted = {
            "batch": 4096, "base_lr": 1e-4, "warmup_epochs": 20,
            "epochs": scratch,
            "optimizer": {"kind": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.3, "layer_decay": 1.0},
            "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "ema": 0.9999,
        }  # fmt: skip
        assert {name: told[name] for name in wanted} == wanted and raw.model.drop_path == path
        for recipe in (fine, raw):
            assert recipe.data is not None
            augment = recipe.data.get("augment")
            assert augment.randaugment == mk.RandAugment(operations=2, magnitude=9.0, deviation=0.5, probability=0.5)
            assert augment.area == (0.2, 1.0) and augment.filter == "bicubic" and round(256 / augment.centre) == 292
