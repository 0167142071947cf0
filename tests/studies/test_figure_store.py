"""Figures that outlive their runs: another machine goes on from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.studies.default_measurements import LOSSES
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import Measurement
from mage_kit.studies.trials import Trial, run_trial
from tests.training.test_training import small

OTHER = Measurement("diversity", "tokens", "data", "diversity", {}, "higher")


def test_a_run_whose_figures_are_there_is_not_trained_again(tmp_path: Path) -> None:
    recipe = small("training.epochs=0.2").changed("tokenizer_training", steps=2)
    store = FigureStore(tmp_path / "figures")
    first = run_trial(Trial(recipe, LOSSES), tmp_path / "runs", Reporter(), store)
    assert not first.problem and len(first.values) == 2
    shutil.rmtree(tmp_path / "runs")
    assert run_trial(Trial(recipe, LOSSES), tmp_path / "runs", Reporter(), store) == first
    assert not (tmp_path / "runs").exists()
    # A figure that nobody asked for before takes the run again, and both then stand in one file.
    more = run_trial(Trial(recipe, (*LOSSES, OTHER)), tmp_path / "runs", Reporter(), store)
    assert more.values.keys() == {*first.values, "diversity"}
    (file,) = (tmp_path / "figures").iterdir()
    content = json.loads(file.read_text())
    assert len(content["figures"]) == 3 and content["seed"] == 0 and content["seconds"] > 0


def test_what_a_run_was_found_not_to_have_is_not_asked_for_again(tmp_path: Path) -> None:
    store = FigureStore(tmp_path)
    store.put("run-1", (*LOSSES, OTHER), {LOSSES[0].name: 1.5}, {LOSSES[0].name: "by hand"}, {})
    assert store.get("run-1", (LOSSES[0], OTHER)) == ({LOSSES[0].name: 1.5}, {LOSSES[0].name: "by hand"})
    assert store.get("run-1", (Measurement("k-NN", "knn", "mean", "top1"),)) is None
    assert store.get("run-2", LOSSES) is None
    (tmp_path / "run-3.json").write_text('{"figures": 3}')
    with pytest.raises(mk.MageKitError, match="holds no figures of a run"):
        store.get("run-3", LOSSES)
