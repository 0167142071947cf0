"""Editing and labels on digits that no model has seen: `python -m benchmarks.pictures` without its comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pictures import WANTED, measure_inpainting, measure_labels, prepare, verdicts
from mage_kit.base.progress import Reporter

pytestmark = pytest.mark.slow


def test_painted_halves_and_labels_are_recognised(tmp_path: Path) -> None:
    study = prepare(tmp_path, Reporter())
    result = {
        "inpainting": measure_inpainting(study, tmp_path, Reporter()),
        "labels": measure_labels(study.conditional, study.reference, tmp_path),
    }
    print({part: dict(found) for part, found in result.items()})
    found = verdicts(result)
    assert len(found) == len(WANTED) and all(found.values()), found
    assert (tmp_path / "inpainting.png").is_file() and (tmp_path / "labels.png").is_file()
