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
from mage_kit.training.resolve import resolve
from mage_kit.training.sizing import fit_to_share, size_decision
from mage_kit.training.train import train
from tests.recipes.test_recipe import RECIPES
from tests.training.test_lone_stages import contrast
from tests.training.test_training import small

GIB = 2.0**30


@pytest.fixture(scope="module")
def large() -> mk.Recipe:
    return mk.Recipe.load(RECIPES / "mage_vitb.json", ["training.batch=1024"])


@pytest.mark.parametrize("gib", [8, 80])
def test_the_largest_part_of_the_share_that_the_plan_allows(
    large: mk.Recipe, gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_memory_of", lambda device: gib * GIB)
    decision = size_decision(workload(large), BatchLayout(1024, 4, 256), torch.device("cuda"), "bfloat16")
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
    assert size_decision(workload(large), BatchLayout(1024, 4, 256), torch.device("cuda"), "bfloat16").value == "1"


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


def test_in_float32_fewer_fit(large: mk.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "_memory_of", lambda device: 40 * GIB)
    layout, work = BatchLayout(1024, 4, 256), workload(large)
    sizes = [int(size_decision(work, layout, torch.device("cuda"), name).value) for name in ("bfloat16", "float32")]
    assert sizes[0] > sizes[1], sizes


def test_a_model_that_the_planner_cannot_walk_through_takes_its_whole_share(
    large: mk.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_back(*words: object, **names: object) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(sizing, "fitting_share", read_back)
    monkeypatch.setattr(sizing, "_memory_of", lambda device: GIB)
    decision = size_decision(workload(large), BatchLayout(1024, 4, 256), torch.device("cuda"), "bfloat16")
    assert decision.value == "256" and "the planner cannot walk through the model" in decision.reason


def test_where_images_contrast_one_another_their_number_is_the_recipes() -> None:
    """Else the card's memory would say how many negatives there are."""
    recipes = small("training.micro_batch=null"), contrast("training.micro_batch=null")
    has = [resolve(recipe, torch.device("cpu")).jobs[-1].sizes is not None for recipe in recipes]
    assert has == [True, False]


@pytest.mark.parametrize(("local", "stored", "micro"), [(128, 256, 128), (96, 64, 48), (7, 3, 1), (256, 256, 256)])
def test_a_stored_size_is_fitted_to_the_share(local: int, stored: int, micro: int) -> None:
    assert fit_to_share(stored, BatchLayout(local * 2, 2, local)).micro == micro
