"""A quantizer written outside serves every convolutional tokenizer through a recipe, and a masked model after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.training.metrics import read_metrics
from tests.outside.sections import CARRIED, TOKENIZER, masked, recipe, training

LEVELS = {"kind": "levels", "levels": [5, 5, 3]}
TASK = {"kind": "reconstruct", "steps": 60, "batch": 32, "lr": 2e-3, **CARRIED, "checkpoint_every": 30}


def tokenizer_of(kind: str) -> dict[str, Any]:
    return {**TOKENIZER, "kind": kind, "quantizer": LEVELS, **({} if kind == "vqgan" else {"z_channels": 16})}


@pytest.mark.parametrize(
    "kind", ["vqgan", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("taming", "llamagen"))]
)
def test_a_quantizer_of_its_own_in_every_tokenizer(kind: str, tmp_path: Path) -> None:
    mine = recipe("level_quantizer", tokenizer=tokenizer_of(kind), training=TASK)
    out = mk.train(mine, tmp_path / "run")
    records = read_metrics(out, "tokenizer")
    assert records[-1]["reconstruction"] < 0.5 * records[0]["reconstruction"]
    tokenizer = mk.load_tokenizer(out)
    assert (tokenizer.spec.codes, tokenizer.spec.width) == (75, 3)
    ids_BL = tokenizer.encode(torch.rand(3, 1, 32, 32))
    assert int(ids_BL.max()) < 75 and tokenizer.decode(ids_BL).shape == (3, 1, 32, 32)
    assert tokenizer.quantizer.get("levels") == (5, 5, 3)
    cut = mk.train(mine, tmp_path / "cut", until=30)
    mk.train(mine, cut, resume=True)
    whole, again = (mk.load_tokenizer(folder).state_dict() for folder in (out, cut))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_model_of_its_codes_trains_and_generates(tmp_path: Path) -> None:
    tokenizer = mk.train(recipe("level_quantizer", tokenizer=tokenizer_of("vqgan"), training=TASK), tmp_path / "first")
    losses = [{"kind": "masked_cross_entropy", "weight": 1.0}]
    given = {**tokenizer_of("vqgan"), "weights": str(tokenizer)}
    mine = recipe("level_quantizer", tokenizer=given, model=masked(losses), training=training(4))
    model = mk.load(mk.train(mine, tmp_path / "run"))
    records = read_metrics(tmp_path / "run", "model")
    assert records[-1]["loss"] < records[0]["loss"] and mk.generate(model, 2).images_BCHW.shape == (2, 1, 32, 32)
    other = {**given, "quantizer": {**LEVELS, "levels": [5, 5, 5]}}
    with pytest.raises(mk.RecipeError, match=r"\$\.tokenizer\.quantizer\.levels: \[5, 5, 5\], the trained one has"):
        mk.train(mine.extended(tokenizer=other), tmp_path / "wrong")


def test_what_a_quantizer_gets_wrong_is_named() -> None:
    even = {**tokenizer_of("vqgan"), "quantizer": {"kind": "levels", "levels": [4]}}
    with pytest.raises(mk.RecipeError, match=r"tokenizer.*levels: \(4,\), must be odd"):
        mk.check(recipe("level_quantizer", tokenizer=even, training=TASK))
    unknown = {**tokenizer_of("vqgan"), "quantizer": {"kind": "levles"}}
    with pytest.raises(mk.RecipeError, match=r'\$\.tokenizer\.quantizer\.kind: unknown "levles", did you mean .levels'):
        recipe("level_quantizer", tokenizer=unknown, training=TASK)


def test_weights_of_another_kind_are_not_taken_for_a_subclass(tmp_path: Path) -> None:
    """EMA and gradient codebooks read one another's weights; a class derived from one may read them otherwise."""

    @mk.QUANTIZERS.register("shifted")
    class Shifted(mk.EMACodebook):
        """Codes that follow running means, and lie elsewhere."""

        def lookup(self, ids_BL: torch.Tensor) -> torch.Tensor:
            return super().lookup(ids_BL) + 1

    try:
        given = {**TOKENIZER, "weights": str(mk.train(recipe("level_quantizer", training=TASK), tmp_path / "ema"))}
        model: dict[str, Any] = {
            "model": masked([{"kind": "masked_cross_entropy", "weight": 1.0}]),
            "training": training(1),
        }
        for kind, fits in (("gradient", True), ("shifted", False)):
            keywords = {"kind": kind, "codes": 32, "width": 8}
            mine = recipe("level_quantizer", tokenizer={**given, "quantizer": keywords}, **model)
            if fits:
                mk.train(mine, tmp_path / kind, until=1)
            else:
                with pytest.raises(mk.RecipeError, match=r"quantizer\.kind: shifted, the trained one has ema"):
                    mk.train(mine, tmp_path / kind, until=1)
    finally:
        mk.QUANTIZERS._entries.pop("shifted")
