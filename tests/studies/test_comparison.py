"""A comparison as an object: what it says of differences, and each form that it is shown in."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.studies.comparison import Comparison, ComparisonRow, FigureName
from mage_kit.studies.comparison_plot import plot_comparison

FIGURES = (FigureName("probe", "higher", "of folds"), FigureName("loss", "lower"))
ROWS = (
    ComparisonRow(
        "drop 0.25", {"model.drop": "0.25"}, {"probe": {0: 0.80, 1: 0.82, 2: 0.81}, "loss": {0: 3.0, 1: 3.1}}
    ),
    ComparisonRow("drop 0.5", {"model.drop": "0.5"}, {"probe": {0: 0.85, 1: 0.872, 2: 0.86}, "loss": {1: 3.1}}),
    ComparisonRow("drop 7", {"model.drop": "7"}, {}, {0: "$.model.drop: 7, must lie in [0, 1] | or be 'lowest'"}),
)


@pytest.fixture
def comparison() -> Comparison:
    return Comparison("digits_demo: drop_&_more", FIGURES, ROWS, (0, 1, 2))


def test_differences_are_taken_seed_by_seed_over_those_that_both_have(comparison: Comparison) -> None:
    difference = comparison.difference(comparison["drop 0.5"], "probe")
    assert difference is not None and difference.mean == pytest.approx((0.05 + 0.052 + 0.05) / 3)
    assert difference.excludes_zero
    one = comparison.difference(comparison["drop 0.5"], "loss")
    assert one is not None and one.count == 1 and one.mean == pytest.approx(0)
    assert comparison.difference(comparison["drop 7"], "probe") is None
    with pytest.raises(mk.MageKitError, match=r"'drop 1', must be one of drop 0\.25"):
        comparison["drop 1"]


def test_a_file_gives_it_back(comparison: Comparison, tmp_path: Path) -> None:
    comparison.write(tmp_path / "c.json")
    assert Comparison.read(tmp_path / "c.json") == comparison
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(mk.MageKitError, match="holds no rows by seeds"):
        Comparison.read(tmp_path / "other.json")


def test_every_form_shows_means_differences_and_failures(comparison: Comparison) -> None:
    markdown, html = comparison.to_markdown(), comparison._repr_html_()
    assert "| drop 0.5 | 0.861 ± 0.027 | +0.0507 ± 0.0029* |" in markdown
    assert "must lie in [0, 1]" in markdown and "probe ↑" in markdown and "probe: of folds." in markdown
    assert "<td>+0.0507 ± 0.0029*</td>" in html and "drop_&amp;_more" in html and "<script" not in html
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert len(rows) == 9 and rows[0] == {"row": "drop 0.25", "seed": "0", "figure": "probe", "value": "0.8"}
    assert str(comparison) == markdown


def test_latex_escapes_what_it_must() -> None:
    row = ComparisonRow("a_b & 50%", {}, {"probe": {0: 0.5, 1: 0.6}})
    text = Comparison("t", FIGURES[:1], (row,), (0, 1)).to_latex()
    assert r"a\_b \& 50\%" in text and r"$\pm$" in text and text.count(r"\\") == 2 and r"\end{tabular}" in text


def test_a_picture_has_a_panel_a_figure(comparison: Comparison, tmp_path: Path) -> None:
    plot_comparison(comparison, tmp_path / "c.png")
    picture = Image.open(tmp_path / "c.png")
    assert picture.width > 900 and picture.height > 150
