"""Images at once, where the recipe leaves it to the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mage_kit as mk
from mage_kit.planning import Machine, estimate
from mage_kit.recipes.workload import workload
from mage_kit.training import sizing
from mage_kit.training.batches import BatchLayout
from mage_kit.training.sizing import size_decision
from mage_kit.training.train import train
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small

GIB = 2.0**30


@pytest.fixture(scope="module")
def large() -> mk.Recipe:
    return mk.Recipe.load(RECIPES / "mage_vitb.json", ["training.batch=1024"])


@pytest.mark.parametrize("gib", [8, 20, 80])
def test_the_largest_part_of_the_share_that_the_plan_allows(
    large: mk.Recipe, gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_memory_of", lambda device: gib * GIB)
    decision = size_decision(workload(large), BatchLayout(1024, 4, 256), torch.device("cuda"))
    micro = int(decision.value)
    assert 256 % micro == 0 and f"of the 256 of a process, as many as {gib} GiB hold" in decision.reason

    def peak(size: int) -> float:
        recipe = large.changed("training", micro_batch=size)
        return estimate(workload(recipe), Machine(processes=4, memory=gib)).memory.peak

    assert peak(micro) <= 0.92 * gib * GIB
    assert micro == 256 or peak(2 * micro) > 0.92 * gib * GIB
    planned = estimate(workload(large), Machine(processes=4, memory=gib))
    assert planned.micro == micro, "the plan says what training does"


def test_where_nothing_fits_it_is_one_image(large: mk.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_memory_of", lambda device: GIB)
    assert size_decision(workload(large), BatchLayout(1024, 4, 256), torch.device("cuda")).value == "1"


def test_a_run_goes_on_with_the_size_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with less memory too: another size would sum gradients in another order."""
    monkeypatch.setattr(sizing, "LARGE", 0)
    recipe = small("training.micro_batch=null", "training.epochs=0.5").changed("tokenizer_training", steps=2)
    train(recipe, tmp_path / "run", until=2)
    decisions = json.loads((tmp_path / "run" / "decisions.json").read_text())
    assert int(decisions["model_micro_batch"]["value"]) == recipe.training.batch
    monkeypatch.setattr(sizing, "_memory_of", lambda device: 1.0)
    train(recipe, tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "decisions.json").read_text()) == decisions
    train(recipe, tmp_path / "small", until=2)
    assert json.loads((tmp_path / "small" / "decisions.json").read_text())["model_micro_batch"]["value"] == "1"
