"""The parts that docs/composing.md and docs/evaluation.md write work as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.training.metrics import read_metrics
from tests.outside.sections import CARRIED, masked, recipe, training

PAGE = Path(__file__).parents[2] / "docs" / "composing.md"
HEAD = """from __future__ import annotations
from typing import Any
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
import mage_kit as mk
"""


def test_the_parts_of_the_page_train_and_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "parts_of_the_page.py").write_text(HEAD + "\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    kinds = set(re.findall(r'register\("(\w+)"\)', "".join(blocks)))
    assert {"against", "focal", "doubt", "sgd", "grey_levels"} <= kinds
    stated = recipe("second_stream", training={"kind": "reconstruct", "steps": 1, "batch": 8}).to_json()
    task = {"kind": "against", "steps": 30, "batch": 32, **CARRIED}
    data = {**json.loads(stated), "plugins": ["parts_of_the_page"], "training": task}
    tokenizer = mk.train(mk.Recipe.parse(data), tmp_path / "tokenizer")
    first, *_, last = read_metrics(tokenizer, "tokenizer")
    assert last["loss"] < first["loss"] and {"objective_tokenizer", "objective_critic"} <= last.keys()
    losses = [{"kind": "focal", "weight": 1.0, "stream": "tokens", "focus": 0.5}]
    generation = {"schedule": {"kind": "cosine"}, "selection": {"kind": "doubt"}, "steps": 6}
    data |= {"model": masked(losses, generation=generation), "training": training(1, optimizer={"kind": "sgd"})}
    data["tokenizer"] |= {"weights": str(tokenizer)}
    run = mk.train(mk.Recipe.parse(data), tmp_path / "run")
    assert read_metrics(run, "model")[-1]["focal"] > 0
    assert mk.generate(mk.load(run), 4).images_BCHW.shape == (4, 1, 32, 32)
    cells = {"kind": "grey_levels", "image_size": [32, 32], "channels": 1, "cell": 4}
    other = mk.train(mk.Recipe.parse({**data, "tokenizer": cells}), tmp_path / "cells")
    assert mk.generate(mk.load(other), 4).images_BCHW.unique().numel() <= 16


def test_the_measure_of_the_page_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.with_name("evaluation.md").read_text()
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "MEASURES" in text]
    (tmp_path / "measure_of_the_page.py").write_text(HEAD + block)
    monkeypatch.chdir(tmp_path)
    cells = {"kind": "patches", "image_size": [32, 32], "channels": 1, "patch": 4}
    losses = [{"kind": "masked_mse", "weight": 1.0}]
    stated = recipe("second_stream", tokenizer=cells, model=masked(losses), training=training(2)).to_json()
    run = mk.train(mk.Recipe.parse({**json.loads(stated), "plugins": ["measure_of_the_page"]}), tmp_path / "run")
    rows = mk.evaluate(run, "class-means")["rows"]
    assert rows["raw pixels"]["top1"] > 0.7 and 0.1 < rows["mean"]["top1"] <= 1
