"""Tokens of several ids each, from a quantizer of ours to images of a masked model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mage_kit as mk
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.studies.tokenize import tokenize
from mage_kit.training.metrics import read_metrics
from tests.training.test_training import small


@pytest.mark.parametrize("kind", ["lfq", "bsq"])
def test_signs_in_groups_are_cached_modelled_and_generated(kind: str, tmp_path: Path) -> None:
    """Each id is embedded by a table and predicted by a head of its own: 2 x 2^5 rows instead of 2^10."""
    recipe = small(
        f'tokenizer.quantizer={{"kind": "{kind}", "bits": 10, "factors": 2}}',
        "tokenizer_training.steps=40", "training.epochs=6", "training.precision=float32",
    )  # fmt: skip
    tokenizer = mk.train(recipe.extended(model=None, tokenizer_training=None, training=recipe.tokenizer_training),
                         tmp_path / "tokenizer")  # fmt: skip
    form = {**recipe.tokenizer.model_dump(mode="json"), "weights": str(tokenizer)}
    modelled = recipe.extended(tokenizer=form)
    run = mk.train(on_tokens(modelled, tokenize(modelled, tmp_path / "cache")), tmp_path / "run")
    records = read_metrics(run, "model")
    assert records[-1]["loss"] < 0.97 * records[0]["loss"]
    model = mk.load(run)
    spec = model.tokenizer.spec
    assert (spec.codes, spec.factors) == (32, 2)
    tables = [value.shape for name, value in model.state_dict().items() if "embedding" in name and value.ndim == 2]
    assert not [shape for shape in tables if shape[0] >= 2**10], tables
    samples = mk.generate(model, 3, seed=1)
    assert samples.ids_BL.shape == (3, spec.grid.size, 2) and int(samples.ids_BL.max()) < 32
    images = samples.images_BCHW
    assert images.shape == (3, 1, 32, 32) and bool(torch.isfinite(images).all())
