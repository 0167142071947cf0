"""An optimizer written outside moves the weights of two tasks, with layer-wise rates, and resumes in the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.planning import Machine, estimate
from mage_kit.recipes.workload import workload
from mage_kit.training.metrics import read_metrics
from tests.outside.sections import CARRIED, masked, recipe, training

LION = {"kind": "lion", "beta": 0.95}
LOSSES = [{"kind": "masked_cross_entropy", "weight": 1.0}]


def lion(**changes: Any) -> mk.Recipe:
    tokenizer = {"kind": "reconstruct", "steps": 40, "batch": 32, "lr": 3e-4, "optimizer": LION, **CARRIED}
    model = training(6, base_lr=2e-3, optimizer={**LION, "layer_decay": 0.5}, **changes)
    return recipe("lion", tokenizer_training=tokenizer, model=masked(LOSSES), training=model)


def test_an_optimizer_of_its_own_trains_tokenizer_and_model(tmp_path: Path) -> None:
    whole = mk.train(lion(), tmp_path / "whole")
    for stage, name in (("tokenizer", "reconstruction"), ("model", "loss")):
        records = read_metrics(whole, stage)
        assert records[-1][name] < 0.95 * records[0][name]


@pytest.mark.slow
def test_it_resumes_in_the_same_bits(tmp_path: Path) -> None:
    tokenizer = mk.train(lion(), tmp_path / "first", until=2)
    given = {**lion().tokenizer.model_dump(mode="json"), "weights": str(tokenizer)}
    mine = lion().extended(tokenizer=given, tokenizer_training=None)
    whole, cut = mk.train(mine, tmp_path / "whole"), mk.train(mine, tmp_path / "cut", until=20)
    mk.train(mine, cut, resume=True)
    one, two = (mk.load(folder).state_dict() for folder in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_slot_gives_it_rates_by_layer_and_the_planner_its_memory() -> None:
    model = lion().build_model()
    names = dict(model.trainable())
    settings = mk.OPTIMIZERS.get("lion").cls(beta=0.95)
    optimizer = settings(names, layer_decay=0.5)
    rates = {id(value): group["rate"] for group in optimizer.param_groups for value in group["params"]}
    assert rates[id(names["encoder.blocks.0.attn.qkv.weight"])] == 0.25
    assert rates[id(names["embedding.table"])] == 0.125 and rates[id(names["decoder.norm.weight"])] == 1.0
    memory = estimate(workload(lion()), Machine(processes=1), 1000).memory
    assert memory.optimizer == memory.gradients == 4.0 * sum(value.numel() for value in names.values())


def test_layer_wise_rates_of_what_has_no_layers_are_refused() -> None:
    mine = lion()
    wrong = mine.changed("tokenizer_training", optimizer={**LION, "layer_decay": 0.5})
    rule = r"\$\.tokenizer_training\.optimizer\.layer_decay: 0\.5, must be 1: VQGAN trains no blocks of an encoder"
    with pytest.raises(mk.RecipeError, match=rule):
        mk.check(wrong)
    with pytest.raises(mk.RecipeError, match=r"\$\.training\.optimizer\.betta: unknown, did you mean 'beta'"):
        mine.changed("training", optimizer={**LION, "betta": 0.9})
