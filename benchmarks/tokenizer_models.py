"""A small MAGE on a row's tokens: cached, learned, and images generated from them.

It shows that a quantizer's tokens serve a masked model as they are. It is far too short a training to compare what the
models can do; the loss stands beside ln V, which is chance.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.images.pictures import grid_picture, save_picture
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.store.folders import RECIPE_FILE
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.metrics import read_metrics

_EPOCHS, _BATCH, _STEPS = 12, 64, 16
_TRAINING = {
    "kind": "masked", "batch": _BATCH, "epochs": _EPOCHS, "warmup_epochs": 2, "base_lr": 0.003, "samples_every": None,
    "checkpoint_every": 100,
}  # fmt: skip


def small_mage(dim: int, encoder: int, decoder: int, dropout: float) -> dict[str, Any]:
    """Return the recipe form of a small MAGE.

    Args:
        dim: Width of both halves; heads are of 32.
        encoder: Its blocks.
        decoder: Its blocks.
        dropout: Of both.
    """
    vit = {"kind": "vit", "dim": dim, "heads": dim // 32, "dropout": dropout}
    return {
        "kind": "mage",
        "mask_ratio": {"kind": "truncated_normal"},
        "ratio_group": 1,
        "encoder": {**vit, "depth": encoder},
        "padding": {"kind": "class_token"},
        "decoder": {**vit, "depth": decoder},
        "losses": [{"kind": "masked_cross_entropy", "weight": 1.0, "label_smoothing": 0.1}],
    }


def model_tokens(recipe: mk.Recipe, run: Path, strip: Path, shown: int, reporter: Reporter) -> dict[str, Any]:
    """Cache a tokenizer's tokens, train a masked model on them, generate; return its figures.

    Args:
        recipe: Of the tokenizer's training.
        run: Its run.
        strip: Picture of generated images to write.
        shown: How many.
        reporter: Where progress goes.
    """
    form = {**recipe.tokenizer.model_dump(mode="json"), "weights": str(run)}
    modelled = recipe.extended(tokenizer=form, model=small_mage(128, 4, 2, 0.05), training=_TRAINING)
    cache, place = run.with_name(f"{run.name}-tokens"), run.with_name(f"{run.name}-model")
    cached = on_tokens(modelled, tokenize(modelled, cache, mirrored=True, reporter=reporter))
    mk.train(cached, place, resume=(place / RECIPE_FILE).is_file(), reporter=reporter)
    records = read_metrics(place, "model")
    model = mk.load(place)
    images_BCHW = mk.generate(model, shown, seed=0, steps=_STEPS).images_BCHW
    save_picture(grid_picture(images_BCHW, shown), strip)
    return {
        "epochs": _EPOCHS,
        "loss_first": records[0]["loss"],
        "loss": records[-1]["loss"],
        "accuracy": records[-1].get("accuracy"),
        "chance": math.log(model.tokenizer.spec.codes or 1),
        "generated_deviation": float(images_BCHW.std()),
    }
