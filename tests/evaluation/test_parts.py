"""Data in parts: what a run learned from teaches the classifier, what was held out tests it."""

from __future__ import annotations

from pathlib import Path

import pytest

import mage_kit as mk
from tests.training.test_training import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = small("training.epochs=0.2", "data.part=training").changed("tokenizer_training", steps=2)
    return mk.train(recipe, tmp_path_factory.mktemp("parts") / "run")


@pytest.mark.parametrize("measure", ["probe-fast", "knn"])
def test_features_are_tested_on_the_part_held_out(run: Path, measure: str) -> None:
    recipe = mk.Recipe.load(run / "recipe.json")
    learned, held_out = (len(recipe.changed("data", part=part).build_dataset()) for part in ("training", "held_out"))
    result = mk.evaluate(run, measure, seed=3)
    assert (result["train_images"], result["test_images"]) == (learned, held_out)
    assert "held out" in result["data"] and "pixel for pixel" not in result["data"]
    assert {"mean", "raw pixels", "untrained encoder"} == result["rows"].keys()


def test_a_whole_data_set_is_still_probed_over_folds(run: Path, tmp_path: Path) -> None:
    recipe = small("training.epochs=0.2", "evaluation.strengths=[0.1]").changed("tokenizer_training", steps=2)
    whole = mk.train(recipe, tmp_path / "whole")
    with pytest.raises(mk.MageKitError, match="over folds of a run's own images takes no such option"):
        mk.evaluate(whole, "probe-fast", seed=3)
    assert "folds" in mk.evaluate(whole, "probe-fast")["data"]
