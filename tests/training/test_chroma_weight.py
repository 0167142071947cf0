"""Hues in a tokenizer's objective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mage_kit as mk
from mage_kit.training.metrics import read_metrics
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
