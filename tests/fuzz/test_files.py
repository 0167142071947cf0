"""Files of ours, changed by chance: refused in words, or read as they were written; no bit flips unnoticed."""

from __future__ import annotations

import hashlib
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mage_kit as mk
from mage_kit.base.manifest import FileWarning
from mage_kit.base.progress import Reporter
from mage_kit.recipes.token_recipe import on_tokens
from mage_kit.store.folders import weights_digest
from mage_kit.studies.tokenize import tokenize
from tests import build
from tests.fuzz.judge import outcome
from tests.fuzz.mutations import mutate_bytes
from tests.training.test_training import small

FEW, MANY = 60, 1000
SILENT = Reporter.silent()


@dataclass
class Artefact:
    """Something stored, and how it is read.

    Args:
        folder: As it was written.
        read: What a user does with it, as a value to compare.
        share: Of all cases.
    """

    folder: Path
    read: Callable[[Path], Any]
    share: float


class Stop(Exception):
    """Ends a run half-way."""


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    home = tmp_path_factory.mktemp("written")
    model = mk.save(build.mage(), home / "model")
    tokenizer = mk.save_tokenizer(build.vqgan(), home / "tokenizer")
    run = home / "run"

    def stop(event: mk.StepEvent) -> None:
        if event.stage == "model" and event.step == 26:
            raise Stop

    with pytest.raises(Stop):
        mk.train(small(), run, on_step=stop, reporter=SILENT)
    recipe = small(f'tokenizer.weights="{run}"')
    cache = tokenize(recipe, home / "cache", shard=500, reporter=SILENT)
    return {
        "model": Artefact(model, lambda folder: weights_digest(mk.load(folder)), 0.475),
        "tokenizer": Artefact(tokenizer, lambda folder: weights_digest(mk.load_tokenizer(folder)), 0.25),
        "run": Artefact(run, resume, 0.025),
        "cache": Artefact(cache, lambda folder: ids(folder, recipe), 0.25),
    }


def resume(folder: Path) -> str:
    """Weights of the run, gone on to its end."""
    mk.train(small(), folder, resume=True, reporter=SILENT)
    return weights_digest(mk.load(folder))


def ids(folder: Path, recipe: mk.Recipe) -> str:
    """Samples of a token cache, every seventh."""
    data = on_tokens(recipe, folder).build_dataset()
    digest = hashlib.sha256()
    for index in range(0, len(data), 7):
        sample = data.sample(index, 0, 0)
        digest.update(repr((sample.label, [sorted(view.items()) for view in sample.views])).encode())
    return digest.hexdigest()


def try_case(number: int, artefact: Artefact, right: Any, folder: Path) -> None:
    draw = random.Random(f"file-{number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(artefact.folder, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = draw.choice(files)
    before = file.read_bytes()
    data = mutate_bytes(before, draw)
    file.write_bytes(data)
    case = (number, str(file.relative_to(folder)), len(before), len(data))
    with warnings.catch_warnings(record=True) as lines:
        warnings.simplefilter("always")
        result = outcome(case, lambda: artefact.read(folder))
    if isinstance(result, Exception) or data == before:
        return
    has_warning = any(issubclass(line.category, FileWarning) for line in lines)
    assert result == right, f"taken, with another result: {case}, {'with a warning' if has_warning else 'in silence'}"


def cases(total: int, artefacts: dict[str, Artefact]) -> list[tuple[str, int]]:
    return [(name, number) for name, each in artefacts.items() for number in range(round(total * each.share))]


def right_of(artefact: Artefact, folder: Path) -> Any:
    shutil.copytree(artefact.folder, folder)
    return artefact.read(folder)


def test_some(artefacts: dict[str, Artefact], tmp_path: Path) -> None:
    right = {name: right_of(each, tmp_path / "right" / name) for name, each in artefacts.items()}
    for name, number in cases(FEW, artefacts):
        if name != "run" or number < 2:
            try_case(number, artefacts[name], right[name], tmp_path / "case")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", "tokenizer", "run", "cache"])
def test_a_thousand(name: str, artefacts: dict[str, Artefact], tmp_path: Path) -> None:
    artefact = artefacts[name]
    right = right_of(artefact, tmp_path / "right" / name)
    for kind, number in cases(MANY, artefacts):
        if kind == name:
            try_case(number + FEW, artefact, right, tmp_path / "case")
