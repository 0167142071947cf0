"""Sizes that no machine holds: said in words, before memory or time is taken."""

from __future__ import annotations

import importlib
import json
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.manifest import list_files
from mage_kit.cli.app import app
from tests import build

DIGITS = "recipes/digits.json"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.encoder.depth=1000000", r"\$\.model\.encoder\.depth: 1000000, must be at most 1,000"),
        ("tokenizer.res_blocks=5000", r"\$\.tokenizer\.res_blocks: 5000, must be at most 1,000"),
        ("tokenizer.image_size=[1000000,32]", r"image_size\[0\]: 1000000, must be at most 65,536"),
        ("model.decoder.dim=3000000000", r"\$\.model\.decoder\.dim: 3000000000, must be at most 2,147,483,647"),
        ("model.encoder.dim=1000000000", r"\$\.model\.encoder: of sizes that no memory holds"),
        ("tokenizer.base_channels=1000000000", r"\$\.tokenizer: of sizes that no memory holds"),
        ("model.encoder.mlp_ratio=1e300", r"\$\.model\.encoder\.mlp_ratio: 1e\+300, must give at most 2,147,483,647"),
        ("training.batch=1000000000", r"\$\.training\.batch: 1000000000, must be at most 1,048,576"),
        ("training.workers=100000", r"\$\.training\.workers: 100000, must be at most 256"),
        ("training.base_lr=1e308", r"\$\.training\.base_lr: 1e\+308, must be at most 1e\+38"),
        ("seed=99999999999999999999", r"\$\.seed: 99999999999999999999, must be below 9,223,372,036,854,775,808"),
    ],
)
def test_sizes_have_limits_with_names(override: str, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(mk.RecipeError, match=says):
        mk.check(mk.Recipe.load(DIGITS, [override]))
    assert time.monotonic() - start < 15


def test_weights_larger_than_memory_are_not_built(tmp_path: Path) -> None:
    recipe = mk.Recipe.load(DIGITS, ["model.encoder.dim=262144"])
    assert mk.check(recipe).model is not None, "on a larger machine it holds"
    with pytest.raises(mk.RecipeError, match=r"its weights take .* GiB, this machine's memory is .* GiB"):
        mk.build(recipe)
    with pytest.raises(mk.RecipeError, match="its weights take"):
        mk.train(recipe, tmp_path / "run")
    done = CliRunner().invoke(app, ["check", DIGITS, "--set", "model.encoder.dim=262144"])
    assert done.exit_code == 0 and "note: its weights take" in done.output
    done = CliRunner().invoke(app, ["check", DIGITS])
    assert done.exit_code == 0 and "note" not in done.output


def test_a_step_that_does_not_fit_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mage_kit.planning.room.memory_size", lambda: 64 * 2**20)
    done = CliRunner().invoke(app, ["check", DIGITS])
    assert done.exit_code == 0 and "note: a step of 128 images takes about 0.1 GiB" in done.output, done.output


def test_a_folder_whose_recipe_and_weights_differ_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe of two thousand times the size beside small weights: refused by shape, before anything is built."""
    folder = mk.save(build.mage(), tmp_path / "model")
    file = folder / "recipe.json"
    stated = json.loads(file.read_text())
    stated["model"]["encoder"]["dim"] = 16384
    file.write_text(json.dumps(stated))
    list_files(file)
    monkeypatch.setattr(
        importlib.import_module("mage_kit.recipes.build"),
        "memory_size",
        lambda: pytest.fail("it was about to be built"),
    )
    with pytest.raises(mk.MageKitError, match="does not fit the recipe beside it"):
        mk.load(folder)
    inner = mk.save_tokenizer(build.vqgan(), tmp_path / "tokenizer")
    card = json.loads((inner / "tokenizer.json").read_text())
    card["tokenizer"]["quantizer"]["codes"] = 2_000_000_000
    (inner / "tokenizer.json").write_text(json.dumps(card))
    list_files(inner / "tokenizer.json")
    with pytest.raises(mk.MageKitError, match="1 of another shape: quantize"):
        mk.load_tokenizer(inner)
    shutil.rmtree(inner)
