"""The studies that ship: what they run, the paper's numbers in them, and verdicts by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from mage_kit.studies.comparison import Comparison, ComparisonRow, FigureName
from mage_kit.studies.measurement import check_measurement
from mage_kit.studies.run_study import run_study
from mage_kit.studies.study import Study
from mage_kit.studies.study_files import load_study, study_names
from mage_kit.studies.study_results import read_study_result
from mage_kit.studies.study_trials import recipe_of, trial_of
from mage_kit.studies.study_verdicts import verdicts
from tests.training.test_training import SMALL

TABLES = json.loads((Path(__file__).parent / "data" / "paper_tables.json").read_text())
COLUMNS = {
    "linear probe": ("linear_probe_top1", 100), "Fréchet distance": ("FID", 1),
    "loss of hidden tokens": ("reconstruction_loss", 1),
}  # fmt: skip


SHORT = ["training.epochs=0.2", "training.warmup_epochs=0.1"]


def table_rows(name: str) -> list[dict[str, Any]]:
    """The paper's rows of a study, as the table has them; Table 5 is two studies, Table 6 repeats its default."""
    if name.startswith("main-5"):
        part = "mode" if name.endswith("a") else "std"
        return [row["values"] for row in TABLES["main.5"] if row["part"] == part]
    rows = [row["values"] for row in TABLES[name.replace("-", ".")]]
    return rows[:4] + rows[5:] if name == "supp-6" else rows


ALONE = [name for name in study_names() if name != "headline"]  # that one is of five tables


@pytest.mark.parametrize("name", ALONE)
def test_the_papers_numbers_are_the_papers(name: str) -> None:
    study = load_study(name)
    rows = table_rows(name)
    of_the_paper = [row for row in study.rows if row.paper]  # a row of our own has none of its numbers
    assert len(rows) == len(of_the_paper)
    for ours, theirs in zip(of_the_paper, rows, strict=True):
        for column, value in ours.paper.items():
            key, factor = COLUMNS[column]
            if value is None:
                assert theirs[key] == "N/A"
            else:
                assert value * factor == pytest.approx(theirs[key]), (name, ours.name, column)


@pytest.mark.parametrize("name", study_names())
def test_every_row_can_be_built_at_every_scale(name: str) -> None:
    study = load_study(name)
    for scale in study.scales:
        marks, able = set(), study.able_rows(scale)
        for row in able:
            trial = trial_of(study, row.name, scale)(1)
            mk.check(trial.recipe)
            assert trial.recipe.seed == 1
            marks.add(trial.shared_recipe(Path("runs")).name)
        assert len(marks) == len(able), "two rows are one setting"


def masks_of(model: object) -> tuple[int, ...]:
    """How many tokens are masked at some quantiles of the ratio, and how many are dropped."""
    if not isinstance(model, mk.Mage):
        return ()
    ratios = model.draw_ratios(256, torch.Generator().manual_seed(0)).sort().values[::16]
    return (*model.n_masked(ratios).tolist(), model.n_dropped)


def test_no_two_fixed_ratios_hide_as_many_tokens() -> None:
    """What the fingerprint of a recipe cannot see: of 16 tokens 0.45 and 0.5 are one setting."""
    study = load_study("main-5a")
    for scale in study.scales:
        models = [mk.check(recipe_of(study, row.name, scale)(0)).model for row in study.able_rows(scale)]
        assert len({masks_of(model) for model in models}) == len(models), scale
    assert "ratio 0.45" not in {row.name for row in study.able_rows("digits")}


def of_five_tables() -> dict[tuple[str, str], float]:
    """The headline's numbers by row and column, as the tables have them."""
    numbers = {}
    for table, (key, column, factor) in {
        "main.1": ("FID", "Fréchet distance", 1), "main.2": ("linear_probe_top1", "linear probe", 100),
    }.items():  # fmt: skip
        for row in TABLES[table]:
            size = row["values"].get("model")
            name = row["setting"] if size is None else f"{row['setting']} ({size})"
            numbers[name, column] = row["values"][key] / factor
            if "IS" in row["values"]:
                numbers[name, "inception score"] = row["values"]["IS"]
    for row in TABLES["main.3"]:
        for shots, value in row["values"].items():
            numbers[f"{row['setting']} ({row['group']})", f"few-shot, {shots} a class"] = value / 100
    for row in TABLES["main.4"]:
        for size in ("ViT-B", "ViT-L"):
            name = f"{row['setting']} ({size})" + ("" if "scratch" in row["setting"] else ", fine-tuned")
            numbers[name, "fine-tuned"] = row["values"][size] / 100
    for key, column in (("FID", "Fréchet distance"), ("IS", "inception score")):
        numbers["MAGE (ViT-B), class-conditional", column] = TABLES["supp.1"][0]["values"][key]
    return numbers


def test_the_headlines_numbers_are_the_papers() -> None:
    ours = {(row.name, column): value for row in load_study("headline").rows for column, value in row.paper.items()}
    theirs = of_five_tables()
    assert set(ours) == set(theirs)
    assert all(ours[place] == pytest.approx(value) for place, value in theirs.items())


@pytest.mark.parametrize("name", study_names())
def test_every_column_has_a_measure_and_takes_its_options(name: str) -> None:
    study = load_study(name)
    for scale in study.scales:
        for each in study.measurements(scale):
            if each.measure == "fid":  # by a network of the user's
                with pytest.raises(mk.MageKitError, match="extractor: none given"):
                    check_measurement(each)
                each = replace(each, options={**each.options, "extractor": "f.pt", "reference": "r.safetensors"})
            check_measurement(each)


@pytest.mark.parametrize("name", study_names())
def test_contrasts_say_what_the_papers_numbers_say(name: str) -> None:
    study = load_study(name)
    rows = {row.name: row for row in study.rows}
    assert any(contrast.decides for contrast in study.contrasts) == (name != "headline"), "one seed decides nothing"
    for contrast in study.contrasts:
        better, worse = (rows[each].paper.get(contrast.measure) for each in (contrast.better, contrast.worse))
        if better is None or worse is None:
            assert contrast.note, "without numbers, what the paper says"
        else:
            way = next(measure.better for measure in study.measures if measure.name == contrast.measure)
            assert (better > worse) == (way == "higher"), (name, contrast)


def small_study(**changes: Any) -> Study:
    form: dict[str, Any] = {
        "name": "small", "title": "drop", "table": "Table 0", "conditions": "none", "finding": "Less is more.",
        "scales": {"digits": {"recipe": "digits", "set": [*SMALL, "tokenizer_training.steps=2"]}},
        "measures": [
            {"name": "loss", "better": "lower", "paper": "loss",
             "at": {"digits": {"measure": "tokens", "row": "0.5 hidden", "figure": "loss", "options": {"n": 0}}}},
        ],
        "rows": [
            {"name": "half", "set": SHORT, "paper": {"loss": 2.0}},
            {"name": "none", "set": [*SHORT, "model.drop=0"], "paper": {"loss": 3.0}},
            {"name": "absent", "needs": "a file of the authors'"},
        ],
        "contrasts": [{"better": "half", "worse": "none", "measure": "loss", "decides": True},
                      {"better": "half", "worse": "absent", "measure": "loss", "note": "said in the text"}],
        "seeds": [0, 1],
    }  # fmt: skip
    return Study.model_validate({**form, **changes}, strict=False)


def compared(half: dict[int, float], none: dict[int, float]) -> Comparison:
    rows = ComparisonRow("half", {}, {"loss": half}), ComparisonRow("none", {}, {"loss": none})
    return Comparison("t", (FigureName("loss", "lower"),), rows, (0, 1, 2))


@pytest.mark.parametrize(
    ("half", "none", "way"),
    [
        ({0: 1.0, 1: 1.1, 2: 0.9}, {0: 2.0, 1: 2.2, 2: 1.9}, "the paper's way"),
        ({0: 2.0, 1: 2.2, 2: 1.9}, {0: 1.0, 1: 1.1, 2: 0.9}, "the other way"),
        ({0: 1.0, 1: 2.0, 2: 3.0}, {0: 2.0, 1: 1.5, 2: 3.5}, "no difference"),
        ({0: 1.0, 1: 1.5, 2: 1.0}, {0: 2.0, 1: 2.5, 2: 2.0}, "no difference"),
        ({0: 1.0}, {0: 9.0}, "no difference"),
        ({0: 1.0}, {1: 9.0}, "not run"),
    ],
)
def test_a_verdict_follows_from_paired_seeds(half: dict[int, float], none: dict[int, float], way: str) -> None:
    first, second = verdicts(small_study(), compared(half, none))
    assert first.way == way and first.paper == -1.0
    assert second.way == "not run" and second.paper is None


def test_a_study_runs_goes_on_and_is_read_back(tmp_path: Path) -> None:
    result = run_study(small_study(), "digits", tmp_path)
    assert [row.name for row in result.comparison.rows] == ["half", "none"]
    assert all(len(row.values["loss"]) == 2 and not row.problems for row in result.comparison.rows)
    again = read_study_result(small_study(), "digits", tmp_path)
    assert again is not None and again.comparison == result.comparison
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/model.safetensors")}
    assert len(stamps) == 4 and len(list(tmp_path.glob("runs/*/tokenizer"))) >= 2, "a tokenizer each seed"
    more = run_study(small_study(), "digits", tmp_path, seeds=[0, 1, 2])
    assert len(more.comparison["half"].values["loss"]) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    few = run_study(small_study(), "digits", tmp_path, seeds=[0])
    assert few.comparison.seeds == (0,)
    again = read_study_result(small_study(), "digits", tmp_path)
    assert again is not None and again.comparison.seeds == (0, 1, 2) and not again.outdated, "more seeds stay"
    rows = [{"name": "half", "set": [*SHORT, "model.drop=0.25"]}, *small_study().model_dump()["rows"][1:]]
    other = small_study(rows=rows)
    changed = read_study_result(other, "digits", tmp_path)
    assert changed is not None and changed.outdated == ("half",)
    assert (tmp_path / "small-digits-table.md").read_text().count("| half |") == 1
    with pytest.raises(mk.MageKitError, match="scale: 'imagenet', must be one of digits"):
        run_study(small_study(), "imagenet", tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rows": [{"name": "half", "starts_from": "none"}, {"name": "none"}, {"name": "absent"}]},
            "must be a row above it that runs",
        ),
        ({"contrasts": [{"better": "whole", "worse": "none", "measure": "loss"}]}, "row 'whole': must be one of"),
        ({"contrasts": [{"better": "half", "worse": "none", "measure": "fid"}]}, "measure 'fid': must be one of"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two have one name"),
    ],
)
def test_a_study_speaks_of_what_it_has(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small_study(**changes)


def test_the_command_lists_shows_and_refuses(tmp_path: Path) -> None:
    run = CliRunner().invoke
    listed = run(app, ["study", "ls", "--out", str(tmp_path)])
    assert listed.exit_code == 0 and all(name in listed.output for name in study_names())
    shown = run(app, ["study", "show", "supp-9", "--scale", "imagenet", "--out", str(tmp_path)])
    assert shown.exit_code == 0 and "on 8 GPUs" in shown.output and "14.1" in shown.output
    for words in (["show", "supp-99"], ["run", "supp-3", "--option", "loss=3"], ["run", "supp-3", "--scale", "mars"]):
        done = run(app, ["study", *words, *([] if words[0] == "show" else ["--out", str(tmp_path / "o")])])
        assert done.exit_code != 0 and isinstance(done.exception, mk.MageKitError), words
    assert not (tmp_path / "o").exists()


def test_a_file_that_is_no_study_is_a_sentence(tmp_path: Path) -> None:
    for text, words in (("[1", "not JSON"), ('{"name": "x"}', "title: Field required")):
        file = tmp_path / "s.json"
        file.write_text(text)
        with pytest.raises(mk.MageKitError, match=words) as caught:
            load_study(str(file))
        assert "\n" not in str(caught.value)
