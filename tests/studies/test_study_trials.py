"""Trainings of studies: what rows start from, tokenizers that they share, commands, changes of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.cli import app
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.run_study import run_study
from mage_kit.studies.study import Study
from mage_kit.studies.study_commands import training_commands
from mage_kit.studies.study_files import load_study
from mage_kit.studies.study_trials import recipe_of, trial_of
from tests.studies.test_studies import SHORT, small_study
from tests.training.test_training import SMALL

CLASSIFIER = [
    'model.encoder={"kind": "vit", "dim": 32, "depth": 2, "heads": 2, "dropout": 0.0}', "training.epochs=1",
    "training.warmup_epochs=0", "training.batch=128", "tokenizer.base_channels=8", "tokenizer.quantizer.codes=32",
]  # fmt: skip


def starting_study() -> Study:
    """A row that fine-tunes what the row above trained; one column of each."""
    digits = {"digits": {"measure": "accuracy", "row": "classifier", "figure": "top1", "seeded": False}}
    accuracy = {"name": "accuracy", "better": "higher", "paper": "top-1", "at": digits}
    form = small_study().model_dump(mode="json")
    tuned = {"name": "tuned", "recipes": {"digits": "finetune_digits"}, "starts_from": "half", "set": CLASSIFIER}
    form["scales"]["digits"]["set"] = []
    form["rows"][0]["set"] = [*SMALL[:4], *SMALL[5:6], "tokenizer_training.steps=2", *SHORT]
    rows = [form["rows"][0], tuned]
    contrast = {"better": "tuned", "worse": "half", "measure": "accuracy", "note": "of nothing"}
    return small_study(
        scales=form["scales"], rows=rows, measures=[*form["measures"], accuracy], contrasts=[contrast], seeds=[3]
    )


def test_a_row_starts_from_the_run_of_another(tmp_path: Path) -> None:
    study = starting_study()
    store = FigureStore(tmp_path / "figures")
    result = run_study(study, "digits", tmp_path / "a", store=store)
    first, tuned = result.comparison.rows
    assert not first.problems and not tuned.problems
    assert list(first.values) == ["loss"] and list(tuned.values) == ["accuracy"], "each has what fits it"
    runs = sorted((tmp_path / "a" / "runs").iterdir())
    recipes = {run.name: mk.Recipe.load(run / "recipe.json") for run in runs}
    (start,) = (name for name, recipe in recipes.items() if recipe.pretrained is None and recipe.model is not None)
    (end,) = (recipe for recipe in recipes.values() if recipe.pretrained is not None)
    assert end.pretrained is not None and end.pretrained.weights == str(tmp_path / "a" / "runs" / start)
    assert run_study(study, "digits", tmp_path / "b", store=store).comparison == result.comparison
    assert not (tmp_path / "b" / "runs").exists(), "figures are of a run, wherever it lies"


def test_crops_vary_and_tokenizers_do_not() -> None:
    """supp-4: the rows' tokenizers are one run, of the scale's own views."""
    study, runs = load_study("supp-4"), Path("runs")
    for scale in ("digits", "pictograms"):
        trials = [trial_of(study, row.name, scale)(0) for row in study.rows]
        starts = {trial.start.shared_recipe(runs).name for trial in trials if trial.start is not None}
        assert len(starts) == 1
        (start,) = starts
        for trial in trials:
            recipe = trial.shared_recipe(runs)
            assert recipe.tokenizer.get("weights") == str(runs / start) and recipe.tokenizer_training is None
    views = {name: trial_of(load_study(name), row, "digits")(0) for name, row in
             (("supp-7", "C + R"), ("supp-8", "lambda 0.1"), ("supp-9", "largest ratio 0.6"))}  # fmt: skip
    assert len({trial.shared_recipe(runs).name for trial in views.values()}) == 1, "one experiment, three tables"


def test_commands_train_what_a_run_then_takes(tmp_path: Path) -> None:
    lines = training_commands(starting_study(), "digits", tmp_path)
    assert len(lines) == 2 and all(line.startswith("mage-kit train ") for line in lines)
    for line in lines:
        done = CliRunner().invoke(app, line.split()[1:])
        assert done.exit_code == 0, done.output
    assert training_commands(starting_study(), "digits", tmp_path) == []
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/model.safetensors")}
    result = run_study(starting_study(), "digits", tmp_path)
    assert all(row.values and not row.problems for row in result.comparison.rows)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/model.safetensors")}


def test_changes_go_to_the_rows_that_have_such_a_place(tmp_path: Path) -> None:
    study = load_study("headline")
    changes = ["data.path=a", "training.validation.path=b"]
    for name in ("MAGE (ViT-B)", "MAGE (ViT-B), fine-tuned"):
        recipe = recipe_of(study, name, "imagenet", changes)(0)
        assert recipe.data is not None and recipe.data.model_dump()["path"] == "a"
        stated = recipe.model_dump(mode="json")["training"].get("validation")
        assert stated is None or stated["path"] == "b"
    with pytest.raises(mk.MageKitError, match=r"training.lines=3: no row of 'headline' has such a place"):
        run_study(study, "imagenet", tmp_path, overrides=["training.lines=3"])
    for name, change, words in (
        ("supp-3", "model.padding=class_token", "become one setting"), ("supp-3", "seed=7", "give --seeds"),
    ):  # fmt: skip
        with pytest.raises(mk.MageKitError, match=words):
            run_study(load_study(name), "digits", tmp_path, overrides=[change])
    for row, weights in (("MAE", None), ("C + R", "vqgan")):  # pixels are no business of a VQGAN's
        recipe = recipe_of(load_study("supp-7"), row, "imagenet", ["tokenizer.weights=vqgan"])(0)
        assert recipe.tokenizer.get("weights") == weights
    plain = recipe_of(load_study("supp-7"), "C only", "pictograms")(0)
    again = recipe_of(load_study("supp-7"), "C only", "pictograms", ["model.decoder.depth=3"])(0)
    assert again == plain, "null has no places in it"
    with pytest.raises(mk.MageKitError, match="option: 'probes', must be one of Fréchet distance, accuracy"):
        run_study(study, "imagenet", tmp_path, options={"probes": {"data": "x"}})
    with pytest.raises(mk.MageKitError, match=r"'inception score' by measure 'fid'.*--skip 'inception score'"):
        run_study(study, "imagenet", tmp_path, skip=["Fréchet distance"])
    with pytest.raises(mk.MageKitError, match="skip: 'FID', must be one of Fréchet"):
        study.measurements("imagenet", skip=["FID"])
    columns = study.measurements("imagenet", {"fid": {"reference": "r"}, "inception score": {"n": 10}})
    options = {each.name: each.options for each in columns}
    assert options["Fréchet distance"] == {"n": 50000, "reference": "r"}
    assert options["inception score"] == {"n": 10, "reference": "r"}
