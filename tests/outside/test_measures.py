"""A measure written outside has a command, and a place in the help, the report, the table of results and the plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.cli import app
from mage_kit.report import write_report
from mage_kit.studies.results import gather
from tests.outside.sections import masked, recipe, training

LOSSES = [{"kind": "masked_cross_entropy", "weight": 1.0}]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("measures")
    tokenizer = mk.train(recipe("class_means", training=tokenizer_task()), place / "tokenizer")
    given = {**recipe("class_means").tokenizer.model_dump(mode="json"), "weights": str(tokenizer)}
    return mk.train(recipe("class_means", tokenizer=given, model=masked(LOSSES), training=training(4)), place / "run")


def tokenizer_task() -> dict[str, Any]:
    return {"kind": "reconstruct", "steps": 20, "batch": 32, "lr": 2e-3, "precision": "float32"}


def command(*words: object, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own, which knows no plug-in yet."""
    where = os.pathsep.join([str(path), str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-m", "mage_kit.cli", *map(str, words)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": where, "COLUMNS": "140"},
    )  # fmt: skip


def test_it_has_a_command_that_its_run_alone_makes_known(run: Path, tmp_path: Path) -> None:
    done = command("eval", "class-means", run, "--no-scale", "--source", "class", "--source", "mean")
    assert done.returncode == 0, done.stderr
    assert "Nearest class mean" in done.stdout and "plain Euclidean distance" in done.stdout
    result = json.loads((run / "eval" / "class-means.json").read_text())
    assert result["measure"] == "class-means" and result["options"]["scale"] is False
    assert set(result["rows"]) == {"class", "mean", "raw pixels", "untrained encoder"}
    assert all(0.2 < row["top1"] <= 1 for row in result["rows"].values()), "chance is 0.1"
    lines = {line.row: line for line in gather([run]) if line.measure == "class-means"}
    assert lines["raw pixels"].paper == 0.123 and lines["mean"].paper is None
    page = write_report(run, tmp_path / "page.html", reporter=Reporter.silent()).read_text()
    assert "Nearest class mean" in page and "plain Euclidean distance" in page
    assert "exists; give --overwrite" in command("eval", "class-means", run).stderr
    again = mk.evaluate(run, "class-means", overwrite=True, scale=False, source=("mean",), baselines=False)
    assert again["rows"]["mean"] == result["rows"]["mean"] and set(again["rows"]) == {"mean"}


def test_a_package_with_an_entry_point_puts_it_into_the_help(tmp_path: Path) -> None:
    folder = tmp_path / "my_lab-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[mage_kit.components]\nmeans = tests.plugins.class_means\n")
    listed = command("eval", "--help", path=tmp_path)
    assert listed.returncode == 0 and "class-means" in listed.stdout and "Nearest class mean" in listed.stdout
    own = command("eval", "class-means", "--help", path=tmp_path)
    assert "--no-scale" in own.stdout and "Divide each feature" in own.stdout and "--baselines" in own.stdout
    assert "class-means" not in command("eval", "--help").stdout


def test_its_cost_stands_in_the_plan(run: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(run / "recipe.json"), "--gpus", "1"])
    assert done.exit_code == 0 and "eval class-means" in done.output and "eval knn" in done.output, done.output


def test_what_it_cannot_take_is_said(run: Path) -> None:
    with pytest.raises(mk.MageKitError, match=r"decoding: the measure 'class-means' takes no such option"):
        mk.evaluate(run, "class-means", overwrite=True, decoding={"steps": 3})
    with pytest.raises(mk.MageKitError, match=r"unknown 'class-mean', did you mean 'class-means'"):
        mk.evaluate(run, "class-mean")
    with pytest.raises(mk.MageKitError, match=r"--scael: True, Extra inputs are not permitted"):
        mk.evaluate(run, "class-means", scael=True)


NONSENSE: dict[str, tuple[Any, str]] = {
    "no outcome": ({"rows": {}}, "gave a dict, must give an Outcome"),
    "no protocol": (mk.Outcome({"rows": {"a": {"top1": 0.5}}}), 'its result holds .*it must hold "protocol"'),
    "rows in a list": (mk.Outcome({"protocol": "p", "rows": [0.5]}), "it must hold"),
    "a row that is none": (mk.Outcome({"protocol": "p", "rows": {"a": "high"}}), "`figures` of Odd cannot read them"),
    "no number": (mk.Outcome({"protocol": "p", "rows": {"a": {"top1": "high"}}}), "rows: hold no number"),
    "not finite": (mk.Outcome({"protocol": "p", "rows": {"a": {"top1": float("nan")}}}), "must be finite numbers"),
    "no JSON": (mk.Outcome({"protocol": "p", "rows": {"a": {"top1": object()}}}), "must be finite numbers, words"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_a_measure_gets_wrong_is_one_sentence(name: str, run: Path) -> None:
    outcome, words = NONSENSE[name]

    @mk.MEASURES.register("odd")
    class Odd(mk.Measure):
        """Nonsense."""

        def run(self, request: mk.Request) -> mk.Outcome:
            return outcome  # type: ignore[no-any-return]  # what is refused

    with pytest.raises(mk.MageKitError, match=rf"measure 'odd': .*{words}"):
        mk.evaluate(run, "odd")
    assert not (run / "eval" / "odd.json").exists()


def test_a_result_that_somebody_changed_is_named(run: Path) -> None:
    file = run / "eval" / "knn.json"
    file.parent.mkdir(exist_ok=True)
    for rows in ({"mean": 3}, {"mean": {"by_k": [1]}}, {"mean": {"by_k": {"5": "high"}}}):
        file.write_text(json.dumps({"measure": "knn", "protocol": "p", "rows": rows}))
        with pytest.raises(mk.MageKitError, match=r"knn\.json: rows: `figures` of Neighbours cannot read them"):
            gather([run])
    file.unlink()


def test_a_measure_written_after_the_training_is_named_on_the_command_line(tmp_path: Path) -> None:
    tokenizer = mk.train(recipe("second_stream", training=tokenizer_task()), tmp_path / "tokenizer")
    given = {**recipe("second_stream").tokenizer.model_dump(mode="json"), "weights": str(tokenizer)}
    mine = recipe("second_stream", tokenizer=given, model=masked(LOSSES), training=training(1))
    run = mk.train(mine, tmp_path / "run")
    refused = command("eval", "class-mean", run)
    assert refused.returncode == 2 and "unknown measure 'class-mean'" in refused.stderr
    assert "where --plugin names its module" in " ".join(refused.stderr.split()) and "Traceback" not in refused.stderr
    done = command("eval", "class-means", run, "--plugin", "tests.plugins.class_means", "--no-baselines")
    assert done.returncode == 0 and (run / "eval" / "class-means.json").is_file(), done.stderr
    lines = command("results", run)
    assert lines.returncode == 0 and "class-means" in lines.stdout, "a table without the plug-in has its numbers too"


def test_a_keyword_that_every_command_has_is_refused_at_the_class() -> None:
    class Odd(mk.Measure):
        """Odd.

        Args:
            seed: Taken by the command.
        """

        def __init__(self, *, seed: int = 0) -> None:
            self.seed = seed

        def run(self, request: mk.Request) -> mk.Outcome:
            return mk.Outcome({})

    with pytest.raises(mk.RegistrationError, match="parameter name 'seed' is reserved"):
        mk.MEASURES.register("odd")(Odd)


def test_options_of_python(run: Path, tmp_path: Path) -> None:
    result = mk.evaluate(str(run), "knn", out=str(tmp_path / "knn.json"), k=[3], baselines=False)
    assert (tmp_path / "knn.json").is_file() and result["options"]["k"] == [3]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"k": []}, r"--k: \[\], Tuple should have at least 1 item"),
        ({"weights": "mean"}, "weights: 'mean', must be raw or ema"),
        ({"processes": 2}, "processes: an option of the command line"),
        ({"out": "x.txt"}, "must be named .json"),
    ]
    for options, words in wrong:
        with pytest.raises(mk.MageKitError, match=words):
            mk.evaluate(run, "knn", **options)
    with pytest.raises(mk.MageKitError, match="--folders: missing"):
        mk.evaluate(run, "transfer")
