"""The study of representations from end to end, its training cut short: what it prints is measured elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import mage_kit as mk
from benchmarks import representation
from mage_kit.base.progress import Reporter


@pytest.mark.slow
def test_the_study_measures_all_that_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["training.epochs=2", "training.warmup_epochs=1", "tokenizer_training.steps=60"]
    real = mk.Recipe.load
    monkeypatch.setattr(mk.Recipe, "load", lambda path, changes=(): real(path, [*changes, *_fitting(path, short)]))
    probe = representation.published_probe
    quick = ["training.epochs=1", "training.warmup_epochs=0"]
    monkeypatch.setattr(
        representation, "published_probe", lambda subject, changes, **given: probe(subject, [*changes, *quick], **given)
    )
    classify = representation.classifier
    monkeypatch.setattr(
        representation, "classifier", lambda *given: classify(*given[:4], [*(given[4] if given[4:] else ()), *quick])
    )
    monkeypatch.setattr(representation, "SEEDS", (0, 1))
    monkeypatch.setattr(representation, "FEW_SEEDS", (0, 1))
    monkeypatch.setattr(representation, "FEW_CHANGES", ("training.batch=50",))
    found = representation.measure(tmp_path, Reporter.silent())
    blocks = {f"block {number}" for number in range(1, 6)}
    assert set(found["after each block"]) == {*blocks, "raw pixels", *(f"untrained encoder, {name}" for name in blocks)}
    assert set(found["linear probe, published"]) == {"features", "untrained encoder"}
    assert set(found["k-NN"]) == {"mean", "raw pixels", "untrained encoder"}
    assert set(found["few-shot"]["mean"]["by_shots"]) == {"1", "5", "10", "13", "25"}
    assert set(found["all labels"]) == {"fine-tuned", "from scratch"}
    for rows in (found["linear probe, fast"], found["all labels"], found["few labels"]):
        assert all(row["seeds"] == len(row["each"]) == 2 for row in rows.values())
    pixels = found["linear probe, fast"]["raw pixels"]
    assert pixels["top1"] > 0.9 and pixels["std"] < 0.02, "which no seed of the model has a say in"
    assert (tmp_path / "blocks.png").is_file() and (tmp_path / "shots.png").is_file()
    page = (tmp_path / "pretrained-0" / "report.html").read_text()
    assert "Linear probe after each block" in page and "Top-1 from a few labels" in page
    console = Console(record=True, width=120, quiet=False)
    representation.show(found, console)
    assert "10 labelled images a class fine-tuning" in console.export_text()
    assert json.dumps(found)


def _fitting(path: Path, changes: list[str]) -> list[str]:
    """Changes are for the pre-training, not for a finished run's recipe nor a classifier's."""
    return changes if path.name == "digits.json" else []
