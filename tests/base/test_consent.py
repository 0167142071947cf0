"""A stranger's folder runs no code: not by any command, not from where it lies, not from where it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mage_kit as mk
from mage_kit.base.manifest import list_files
from mage_kit.base.plugins import CONSENT, PLUGINS_FILE
from mage_kit.cli import app
from tests import build

ROOT = Path(__file__).parents[2]
MODULE = "strangers_parts"
CODE = 'import pathlib, mage_kit as mk\npathlib.Path({mark!r}).write_text("it ran")\n'


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stranger's code writes if it runs; the user agreed to nothing."""
    monkeypatch.delenv(CONSENT)
    sys.modules.pop(MODULE, None)
    return tmp_path / "mark"


@pytest.fixture
def run(tmp_path: Path, mark: Path) -> Path:
    """A model's folder whose recipe, tokenizer card and plugins.json name a module that lies in it."""
    folder = mk.save(build.mage().eval(), tmp_path / "run")
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "plugins": [MODULE]}))
    tokenizer = mk.save_tokenizer(build.vqgan().eval(), folder / "tokenizer")
    card = json.loads((tokenizer / "tokenizer.json").read_text())
    (tokenizer / "tokenizer.json").write_text(json.dumps({**card, "plugins": {MODULE: str(folder)}}))
    (folder / PLUGINS_FILE).write_text(json.dumps({MODULE: str(folder)}))
    list_files(folder / "recipe.json")  # a stranger writes manifests, too
    list_files(tokenizer / "tokenizer.json")
    for place in (folder, tokenizer):
        (place / f"{MODULE}.py").write_text(CODE.format(mark=str(mark)))
    return folder


COMMANDS: dict[str, list[str]] = {
    "check": ["check", "{run}/recipe.json"],
    "plan": ["plan", "{run}/recipe.json"],
    "train": ["train", "{run}/recipe.json", "--out", "{run}/out"],
    "generate": ["generate", "{run}"],
    "inpaint": ["edit", "reconstruct", "{run}", "{run}/x.png", "-o", "{run}/out"],
    "report": ["report", "{run}"],
    "export": ["export", "{run}", "--out", "{run}/out.pth"],
    "verify": ["verify", "{run}"],
    "knn": ["eval", "knn", "{run}"],
    "a measure that nobody has": ["eval", "strange", "{run}"],
    "audit": ["eval", "audit", "{run}", "--data", "{run}"],
    "audit of a tokenizer": ["eval", "audit", "{run}/tokenizer", "--data", "{run}"],
    "results": ["results", "{run}"],
    "tokenize": ["tokenize", "{run}/recipe.json", "--data", "{run}", "--out", "{run}/out"],
    "compare": ["compare", "{run}/recipe.json", "--vary", "evaluation.folds=3,4", "--out", "{run}/out"],
}


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_it(
    name: str, inside: bool, run: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run if inside else tmp_path)
    build_picture(run / "x.png")
    done = CliRunner().invoke(app, [word.format(run=run) for word in COMMANDS[name]])
    assert not mark.exists() and done.exit_code != 0, done.output
    if name not in ("a measure that nobody has", "audit of a tokenizer", "verify"):  # which have other reasons too
        assert MODULE in str(done.exception) and "--allow-plugins" in str(done.exception), done.exception


def build_picture(file: Path) -> None:
    mk.Digits(image_size=(16, 16), channels=1).image(0).save(file)


@pytest.mark.parametrize(
    "load", [mk.load, mk.load_tokenizer, mk.Recipe.load, lambda place, **yes: mk.load(place, **yes)]
)
def test_python_asks_too_and_takes_yes_for_an_answer(load: Any, run: Path, mark: Path) -> None:
    place = run / "recipe.json" if load == mk.Recipe.load else run
    with pytest.raises(mk.MageKitError, match=rf"'{MODULE}' would run the code of .*{MODULE}\.py; if you trust it"):
        load(place)
    assert not mark.exists()
    load(place, plugins=True)
    assert mark.exists()


def test_consent_holds_while_it_lasts(run: Path, mark: Path) -> None:
    with mk.consent():
        mk.load(run)
    assert mark.exists()
    sys.modules.pop(MODULE)
    with pytest.raises(mk.MageKitError, match="plugins=True"):
        mk.load(run)


def test_a_process_of_its_own_asks_wherever_it_is_started(run: Path, mark: Path) -> None:
    """`python -m` puts the current folder on the import path; that is no consent. The flag may stand anywhere."""
    command = [
        sys.executable,
        "-m",
        "mage_kit.cli",
        "generate",
        str(run),
        "-n",
        "1",
        "--out",
        str(mark.parent / "a.png"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run(command, cwd=run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--allow-plugins" in done.stderr and not mark.exists(), done.stderr
    agreed = subprocess.run([*command, "--allow-plugins"], cwd=run, env=environment, capture_output=True, text=True,
                            check=False)  # fmt: skip
    assert agreed.returncode == 0 and mark.exists(), agreed.stderr


def test_where_to_look_is_never_taken_from_a_file(run: Path, mark: Path, tmp_path: Path) -> None:
    """Even with consent: a file that names a folder does not make it one that code is taken from; it is told."""
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(run / f"{MODULE}.py", away)
    (run / "tokenizer" / f"{MODULE}.py").unlink()
    (run / PLUGINS_FILE).write_text(json.dumps({MODULE: str(away)}))
    with pytest.raises(mk.MageKitError, match=rf"it came from '{away}' when this was written"):
        mk.load(run, plugins=True)
    assert not mark.exists()


def test_what_is_installed_runs_unasked_and_before_what_lies_in_the_folder(
    run: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / f"{MODULE}.py").write_text("HERE = True\n")
    monkeypatch.syspath_prepend(str(installed))
    mk.load(run)
    assert not mark.exists() and sys.modules[MODULE].HERE
    sys.modules.pop(MODULE)
    mk.load(run, plugins=True)
    assert not mark.exists() and sys.modules[MODULE].HERE


def test_python_itself_holds_no_components(run: Path) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**recipe, "plugins": ["antigravity"]}))
    list_files(run / "recipe.json")
    with pytest.raises(mk.RecipeError, match="'antigravity' is a part of Python itself"):
        mk.load(run, plugins=True)
    assert "antigravity" not in sys.modules
