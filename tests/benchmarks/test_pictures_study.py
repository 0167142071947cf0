"""Editing and labels on digits that no model has seen: `python -m benchmarks.pictures`, its trainings cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pictures import WANTED, measure_inpainting, measure_labels, prepare, verdicts
from mage_kit.base.progress import Reporter

pytestmark = pytest.mark.slow
FIRST = ["tokenizer_training.steps=60", "training.epochs=2", "training.warmup_epochs=1"]
SECOND = ["training.epochs=2", "training.warmup_epochs=1"]


def test_all_of_the_study_runs_and_knows_models_that_have_learned_nothing(tmp_path: Path) -> None:
    """The whole takes a quarter of an hour: docs/pictures.md has its figures."""
    study = prepare(tmp_path, Reporter(), FIRST, SECOND)
    result = {
        "inpainting": measure_inpainting(study, tmp_path, Reporter()),
        "labels": measure_labels(study.conditional, study.reference, tmp_path),
    }
    found = verdicts(result)
    assert len(found) == len(WANTED)
    assert found["classifier of real digits at least 0.97"] and not all(found.values()), found
    assert all(0 <= share <= 1 for share in result["inpainting"].values())
    assert (tmp_path / "inpainting.png").is_file() and (tmp_path / "labels.png").is_file()
