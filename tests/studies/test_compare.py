"""Sweeps on tiny trainings: every combination, shared runs, rows that fail, kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mage_kit as mk
from mage_kit.base.errors import TrainingStopped
from mage_kit.base.progress import Reporter
from mage_kit.studies import trials
from mage_kit.studies.compare import compare
from mage_kit.studies.comparison import Comparison
from mage_kit.studies.default_measurements import ACCURACY, LOSSES, PROBE, default_measurements, frechet
from mage_kit.studies.product import build_rows
from mage_kit.studies.vary import parse_vary
from tests.training.test_training import small

QUICK = ("training.epochs=0.2", "evaluation.strengths=[0.1]")
SOME = (LOSSES[0],)


def tiny() -> mk.Recipe:
    return small(*QUICK).changed("tokenizer_training", steps=2)


def test_axes_are_read_and_nothing_is_given_twice() -> None:
    axes = parse_vary(["model.mask_ratio=uniform,truncated_normal", "model.losses=[[1], [2]]", "model.drop=0.25,0.5"])
    assert axes == {
        "model.mask_ratio": ["uniform", "truncated_normal"], "model.losses": [[1], [2]], "model.drop": [0.25, 0.5]
    }  # fmt: skip
    for options, words in (
        (["model.drop=0.5"], "at least two values"), (["=1,2"], "at least two values"),
        (["model.drop=0.1,0.2", "model.drop=0.3,0.4"], "given twice"),
    ):  # fmt: skip
        with pytest.raises(mk.MageKitError, match=words):
            parse_vary(options)


def test_two_axes_are_a_product_and_a_row_that_cannot_be_built_costs_itself_alone(tmp_path: Path) -> None:
    vary = {"model.mask_ratio": ["truncated_normal", "uniform"], "model.drop": [0.5, 7]}
    result = compare(tiny(), vary, seeds=2, out=tmp_path / "c", measurements=SOME, reporter=Reporter())
    assert [row.name for row in result.rows] == [
        "mask_ratio truncated_normal, drop 0.5", "mask_ratio truncated_normal, drop 7",
        "mask_ratio uniform, drop 0.5", "mask_ratio uniform, drop 7",
    ]  # fmt: skip
    for row in result.rows:
        is_sound = row.settings["model.drop"] == "0.5"
        assert (len(row.values.get(SOME[0].name, {})) == 2) == is_sound
        assert bool(row.problems) != is_sound
        assert is_sound or "must lie in [0, 1]" in row.problems[0]
    for end in ("json", "md", "csv", "tex", "png"):
        assert (tmp_path / "c" / f"compare.{end}").stat().st_size > 100
    assert Comparison.read(tmp_path / "c" / "compare.json") == result


def test_runs_are_shared_and_an_interrupted_sweep_gives_the_table_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, vary = tiny(), {"model.drop": [0.25, 0.5]}
    whole = compare(recipe, vary, out=tmp_path / "whole", measurements=SOME)
    plain, calls = trials.train, []

    def killed(*words: Any, **names: Any) -> Any:
        calls.append(words)
        if len(calls) == 2:
            plain(*words, **names, until=1)
            raise KeyboardInterrupt
        return plain(*words, **names)

    monkeypatch.setattr(trials, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(recipe, vary, out=tmp_path / "cut", measurements=SOME)
    monkeypatch.setattr(trials, "train", plain)
    assert compare(recipe, vary, out=tmp_path / "cut", measurements=SOME) == whole
    # Another comparison of other rows, of a recipe of another name, takes the run that it shares.
    monkeypatch.setattr(trials, "train", lambda *words, **names: calls.append("trained") or plain(*words, **names))
    calls.clear()
    again = compare(
        recipe.extended(name="other"), {"model.drop": [0.5, 0.0]}, out=tmp_path / "more", measurements=SOME,
        runs=tmp_path / "whole" / "runs",
    )  # fmt: skip
    assert calls == ["trained"]
    assert again["drop 0.5"].values == whole["drop 0.5"].values


def test_a_folder_holds_one_comparison(tmp_path: Path) -> None:
    compare(tiny(), {"model.drop": [0.25, 0.5]}, out=tmp_path, measurements=SOME)
    with pytest.raises(mk.MageKitError, match="holds another comparison"):
        compare(tiny(), {"model.mask_ratio": ["uniform", "cosine"]}, out=tmp_path, measurements=SOME)


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ({}, "must name at least one place"),
        ({"seed": [1, 2]}, "give `seeds`"),
        ({"model.drop": "0.5"}, "must name at least one place"),
        ({"model.drop": [0.5, 0.5]}, "stands twice"),
        ({"model.dorp": [0.5, 0.6]}, "dorp"),
    ],
)
def test_what_is_no_sweep_is_refused(vary: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(mk.MageKitError, match=words):
        compare(tiny(), vary, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_without_labels_there_is_no_probe(tmp_path: Path) -> None:
    recipe = tiny()
    assert default_measurements(recipe) == [PROBE, frechet(1000, "classifier"), *LOSSES]
    for number in range(3):
        Image.new("L", (32, 32), 40 * number).save(tmp_path / f"{number}.png")
    assert default_measurements(recipe.extended(data={"kind": "image_folder", "path": str(tmp_path)})) == [*LOSSES]
    colour = mk.Recipe.load("pictograms_small").extended(data={"kind": "image_folder", "path": str(tmp_path)})
    columns = [column.name for column in default_measurements(colour)]
    assert columns == ["Fréchet distance", *(loss.name for loss in LOSSES)]
    assert default_measurements(mk.Recipe.load("finetune_digits")) == [ACCURACY]


def test_a_figure_that_cannot_be_measured_costs_itself_alone(tmp_path: Path) -> None:
    columns = (mk.Measurement("k-NN", "knn", "mean", "top1", {"data": str(tmp_path / "nowhere")}), SOME[0])
    result = compare(tiny(), {"model.drop": [0.25, 0.5]}, out=tmp_path / "c", measurements=columns)
    for row in result.rows:
        assert list(row.values) == [SOME[0].name]
        assert "k-NN: " in row.problems[0] and "nowhere" in row.problems[0]


def test_a_bug_in_one_training_is_a_problem_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = trials.train, []

    def broken(*words: Any, **names: Any) -> Any:
        calls.append(words)
        if len(calls) == 1:
            raise RuntimeError("no memory")
        return plain(*words, **names)

    monkeypatch.setattr(trials, "train", broken)
    result = compare(tiny(), {"model.drop": [0.25, 0.5]}, out=tmp_path / "c", measurements=SOME)
    assert "RuntimeError: no memory (" in result.rows[0].problems[0] and result.rows[1].values


def test_a_run_that_was_killed_before_its_recipe_goes_on(tmp_path: Path) -> None:
    trial = trials.Trial(tiny(), SOME)
    folder = tmp_path / trial.shared_recipe(tmp_path).name
    folder.mkdir()
    (folder / ".lock").touch()
    assert not trials.run_trial(trial, tmp_path, Reporter()).problem


def test_rows_may_be_added_to_a_table_and_none_is_lost(tmp_path: Path) -> None:
    compare(tiny(), {"model.drop": [0.25, 0.5]}, out=tmp_path, measurements=SOME)
    more = compare(tiny(), {"model.drop": [0.25, 0.5, 0.0]}, out=tmp_path, measurements=SOME)
    assert len(more.rows) == 3
    with pytest.raises(mk.MageKitError, match=r"a row 'drop 0\.0' that would be lost"):
        compare(tiny(), {"model.drop": [0.25, 0.5]}, out=tmp_path, measurements=SOME)
    other = tiny().changed("training", base_lr=0.1)
    with pytest.raises(mk.MageKitError, match="the comparison of another recipe"):
        compare(other, {"model.drop": [0.25, 0.5, 0.0]}, out=tmp_path, measurements=SOME)


def test_places_that_end_alike_are_told_apart() -> None:
    rows, _ = build_rows(tiny(), {"model.encoder.depth": [1, 2], "model.decoder.depth": [1, 2]})
    assert "model.encoder.depth 1, model.decoder.depth 2" in rows
    with pytest.raises(mk.MageKitError, match="give `seeds`"):
        build_rows(tiny(), {"$.seed": [0, 1]})


def test_a_stop_while_measuring_is_no_problem_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*words: Any) -> Any:
        raise TrainingStopped("told to stop")

    monkeypatch.setattr(trials, "measure_run", stopped)
    with pytest.raises(TrainingStopped):
        compare(tiny(), {"model.drop": [0.25, 0.5]}, out=tmp_path / "c", measurements=SOME)
