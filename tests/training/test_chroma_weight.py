"""Hues in a tokenizer's objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.tokenizers import TokenizerLosses
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks.reconstruct import Reconstruct
from tests.training.test_adversarial import ALONE, game

FSQ = {"kind": "fsq", "levels": [4, 4, 4]}  # whose objective is the reconstruction alone
HUES = {"chroma_weight": 2.0}


def coloured(**changes: float) -> mk.Recipe:
    return game(**{**ALONE, "steps": 8, "log_every": 1, **changes}).changed("tokenizer", channels=3, quantizer=FSQ)


def test_the_loss_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    records = read_metrics(mk.train(coloured(chroma_weight=3.0), tmp_path / "run"), "tokenizer")
    for record in records:
        assert record["loss"] == pytest.approx(record["reconstruction"] + 3 * record["chroma"], rel=1e-5)
    assert records[0]["chroma"] > 0  # digits are grey; reconstructions of random weights are not
    plain = read_metrics(mk.train(coloured(), tmp_path / "plain"), "tokenizer")
    assert "chroma" not in plain[0]
    assert records[-1]["chroma"] < 0.5 * records[0]["chroma"]


def test_grey_images_have_no_hues(tmp_path: Path) -> None:
    weights = [mk.train(game(**{**ALONE, **more}), tmp_path / name) for name, more in (("a", {}), ("b", HUES))]
    first, second = (mk.load_tokenizer(folder).state_dict() for folder in weights)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_of_float32_numbers_in_a_training_in_bfloat16() -> None:
    recipe = coloured(chroma_weight=3.0)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rebuilt = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    task = Reconstruct(recipe.build_tokenizer(), steps=1, chroma_weight=3.0)
    errors = []
    task.tally = lambda name, value: errors.append(value) if name == "chroma" else None  # type: ignore[method-assign]
    task._losses = lambda *_: TokenizerLosses(torch.zeros(()), {}, rebuilt)  # type: ignore[method-assign]
    step: Any = None  # which the losses alone would read
    task.rebuild(images, step)
    with torch.autocast("cpu", torch.bfloat16):
        task.rebuild(images, step)
    assert errors[0].dtype == torch.float32 and torch.equal(*errors)
