"""Sections of the recipes that name parts of tests/plugins: digits, a small tokenizer, a small model."""

from __future__ import annotations

import json
from typing import Any

import mage_kit as mk
from tests.recipes.test_recipe import RECIPES

CARRIED = {"log_every": 10, "checkpoint_every": 20, "precision": "float32"}
TOKENIZER = {
    "kind": "vqgan", "weights": None, "image_size": [32, 32], "channels": 1, "base_channels": 8,
    "multipliers": [1, 2, 2, 4], "res_blocks": 1, "norm_groups": 4,
    "quantizer": {"kind": "ema", "codes": 32, "width": 8},
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
