"""The paper's page from stored results: what was run, with its date and remarks; the rest says that it was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import studies, studies_page
from mage_kit.studies.comparison import Comparison, ComparisonRow, FigureName
from mage_kit.studies.study_files import load_study, study_names
from mage_kit.studies.study_results import StudyResult, result_file


def result(scale: str, better: float) -> StudyResult:
    study = load_study("supp-3")
    figures = tuple(FigureName(measure.name, measure.better) for measure in study.measures)
    rows = []
    for row, value in zip(study.rows, (0.0, better), strict=True):
        by_seed = {seed: value * (1 + 0.01 * seed) for seed in range(3)}
        rows.append(ComparisonRow(row.name, {}, {figure.name: by_seed for figure in figures}))
    return StudyResult(study, scale, Comparison("t", figures, tuple(rows), (0, 1, 2)))


def test_the_page_has_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies_page, "PAGE", tmp_path / "paper.md")
    monkeypatch.setattr(studies_page, "study_names", lambda: ["supp-3", "headline"])
    monkeypatch.setattr(studies_page, "_cost", lambda study: "two days")  # the planner has tests of its own
    digits = result("digits", 1.0)
    file = result_file(digits.study, "digits", tmp_path)
    digits.write(file)
    (tmp_path / "remarks").mkdir()
    (tmp_path / "remarks" / "supp-3.md").write_text("What differs here.")
    text = studies_page.write_page(tmp_path).read_text()
    ran, whole = text.split("## headline")
    assert "On digits, seeds 0, 1, 2 (20" in ran and "What differs here." in ran
    assert "the paper's way" in ran and "the other way" in ran, "ahead in the probe, behind in the distance"
    assert "Not run on embedded data" not in ran and "On pictograms" not in ran
    assert "At full size alone: not run." in whole and "--scale digits" not in whole
    assert "--option fid.extractor=FILE" in whole


def test_figures_that_did_not_change_keep_their_date(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result("digits", 1.0).write(file)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "date": "2026-01-01"}))
    result("digits", 1.0).write(file)
    assert json.loads(file.read_text())["date"] == "2026-01-01"
    result("digits", 2.0).write(file)
    assert json.loads(file.read_text())["date"] == content["date"]


def test_every_study_of_a_scale_is_run_what_must_be_there_first() -> None:
    for scale in studies.SCALES:
        names = studies.order(scale)
        assert tuple(names[: len(studies.FIRST)]) == studies.FIRST
        assert set(names) == set(study_names()) - {"headline"} and len(names) == len(set(names))
