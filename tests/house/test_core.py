"""The core's promises: recipes are read in one place, nothing is built or read twice, few frames lie between a command
and the model, and those who ask are told what happens."""

from __future__ import annotations

import ast
import json
import re
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import mage_kit as mk
from mage_kit.base import files, processes
from mage_kit.cli import runs
from mage_kit.training.checkpoints import list_checkpoints
from mage_kit.training.events import Callbacks
from mage_kit.training.metrics import read_metrics
from tests.recipes.test_recipe import RECIPES
from tests.training.test_training import small

ROOT = Path(__file__).parent.parent.parent / "mage_kit"
RESOLVERS = {"training/resolve.py", "training/resolve_tokens.py", "training/check.py"}


def takers(room: str) -> set[str]:
    """Functions of a room whose signature names a recipe, as file:function."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                notes = [ast.unparse(each.annotation) for each in given if each.annotation is not None]
                if any("Recipe" in note for note in notes):
                    found.add(f"{path.relative_to(ROOT)}:{node.name}")
    return found


def test_a_recipe_is_read_in_one_place() -> None:
    """`train` hands it to `resolve` and its check; nothing else of training, tasks, models and generation takes one."""
    named = takers("training") | takers("models") | takers("generation")
    elsewhere = {name for name in named if name.split(":")[0] not in RESOLVERS}
    assert elsewhere == {"training/train.py:train"}
    assert "training/resolve.py:resolve" in named
    readers = RESOLVERS | {"training/train.py"}
    for room in ("training", "models", "generation"):
        for path in (ROOT / room).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in readers:
                assert not re.search(r"\bRecipe\b", path.read_text()), f"{path} names Recipe"


def test_sections_are_read_in_their_room_and_where_they_are_resolved() -> None:
    """Whoever measures, shows or repeats a run asks mage_kit/recipes; its sections may change without them."""
    sections = "data|tokenizer|tokenizer_training|model|pretrained|training|evaluation|kernels|plugins|validation"
    for path in ROOT.rglob("*.py"):
        place = str(path.relative_to(ROOT))
        if not place.startswith("recipes/") and place not in RESOLVERS:
            names = rf"\brecipe(?:\.(?:{sections}|model_dump\w*)\b|(?:\.get\(|\[)\"(?:{sections})\")"
            match = re.search(names, path.read_text())
            assert match is None, f"{place} reads {match[0]}"


def test_one_kind_of_recipe() -> None:
    for folder in (ROOT, ROOT.parent / "tests"):
        for path in folder.rglob("*.py"):
            assert "Classifier" + "Recipe" not in path.read_text(), path


class Counts:
    """How often things are built with memory, and weight files read, by what they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.built: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        for kind in (mk.VQGAN, mk.Mage, mk.MageClassifier):
            self._watch(monkeypatch, kind)
        load = files.load_file

        def counting(path: Path) -> Any:
            self.read[str(path)] += 1
            return load(path)

        monkeypatch.setattr(files, "load_file", counting)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, kind: type[torch.nn.Module]) -> None:
        first = kind.__init__

        def watched(module: torch.nn.Module, *words: Any, **named: Any) -> None:
            first(module, *words, **named)
            self.built[kind.__name__] += next(module.parameters()).device.type != "meta"

        monkeypatch.setattr(kind, "__init__", watched)


QUICK = ("training.epochs=0.2", "training.precision=float32", "tokenizer_training.steps=3", "training.ema=0.9",
         "training.samples_every=0.1", "tokenizer_training.precision=float32")  # fmt: skip


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mk.train(small(*QUICK), tmp_path_factory.mktemp("runs") / "before")


def test_nothing_is_built_or_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of both stages, with samples and mean weights; and the same again with the tokenizer that is there."""
    counts = Counts(monkeypatch)
    mk.train(small(*QUICK), tmp_path / "a" / "run")
    assert counts.built == {"VQGAN": 1, "Mage": 1} and not counts.read
    counts.built.clear()
    mk.train(small(*QUICK, "model.mask_ratio=uniform"), tmp_path / "a" / "reusing")
    assert counts.built == {"VQGAN": 1, "Mage": 1}
    assert list(counts.read.values()) == [1] and next(iter(counts.read)).endswith("tokenizer/tokenizer.safetensors")


def test_weights_are_read_once(before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named for the tokenizer; and a pretrained model's, for tokenizer and encoder, of a model and of a classifier."""
    given = small(*QUICK, f'tokenizer.weights="{before}"')
    weights = {"weights": str(before), "freeze": False}
    continued = small(*QUICK).extended(pretrained=weights)
    head = json.loads((RECIPES / "finetune_digits.json").read_text())
    encoder = json.loads(small().to_json())["model"]["encoder"]
    tuned = mk.Recipe.parse(
        {**head, "tokenizer": json.loads(small().to_json())["tokenizer"], "pretrained": weights,
         "model": {**head["model"], "encoder": encoder}},
        ("training.epochs=0.2", "training.warmup_epochs=0.1", "training.precision=float32"),
    )  # fmt: skip
    for name, recipe, built in (
        ("given", given, {"VQGAN": 1, "Mage": 1}),
        ("continued", continued, {"VQGAN": 1, "Mage": 1}),
        ("tuned", tuned, {"VQGAN": 1, "MageClassifier": 1}),
    ):
        with monkeypatch.context() as watching:
            counts = Counts(watching)
            mk.train(recipe, tmp_path / name)
        assert counts.built == built, name
        assert set(counts.read.values()) == {1} and len(counts.read) <= 2, counts.read
        assert all(str(before) in path for path in counts.read)


def test_few_frames_from_the_command_to_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here(Exception):
        pass

    forward = mk.Mage.forward

    def stopping(self: mk.Mage, *words: Any, **named: Any) -> Any:
        raise Here

    stopping.__code__ = stopping.__code__.replace(co_filename=forward.__code__.co_filename, co_name="forward")
    monkeypatch.setattr(mk.Mage, "forward", stopping)
    file = tmp_path / "recipe.json"
    file.write_text(small(*QUICK, "kernels.attention=matmul").to_json())
    frames = traceback.extract_tb(_trace(file, tmp_path / "run", Here))
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    names = [f"{Path(frame.filename).relative_to(ROOT)}:{frame.name}" for frame in ours]
    assert names[0] == "cli/runs.py:train" and names[-1] == "models/mage.py:forward", names
    assert len(names) <= 7 and len({name.partition(":")[0] for name in names}) <= 4, names


def _trace(file: Path, out: Path, kind: type[Exception]) -> Any:
    try:
        runs.train(file, out=out)
    except kind as error:
        return error.__traceback__
    raise AssertionError("the model was not reached")


def test_callbacks_are_told_what_happens(tmp_path: Path) -> None:
    events: list[Any] = []
    logs: list[mk.LogEvent] = []
    settings = (
        "tokenizer_training.log_every=2",
        "tokenizer_training.checkpoint_every=2",
        "training.checkpoint_every=2",
    )
    out = mk.train(
        small(*QUICK, *settings), tmp_path / "run",
        on_step=events.append, on_log=logs.append, on_checkpoint=events.append, on_end=events.append,
    )  # fmt: skip
    steps = [(event.stage, event.step) for event in events if isinstance(event, mk.StepEvent)]
    assert steps == [("tokenizer", 1), ("tokenizer", 2), ("tokenizer", 3), ("model", 1), ("model", 2), ("model", 3)]
    assert all(event.losses.keys() == {event.stage} and not event.skipped
               for event in events if isinstance(event, mk.StepEvent))  # fmt: skip
    assert [dict(event.record) for event in logs] == read_metrics(out)
    saved = [event.folder for event in events if isinstance(event, mk.CheckpointEvent)]
    assert set(list_checkpoints(out / "checkpoints" / "model")) <= set(saved) and len(saved) == 4
    ends = [event for event in events if isinstance(event, mk.EndEvent)]
    assert ends == [mk.EndEvent("tokenizer", 3, out / "tokenizer", True), mk.EndEvent("model", 3, out, True)]


def test_processes_that_listen_to_different_events_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would wait for each other for ever."""
    mine = Callbacks(on_step=(print,))
    mine.check_alike()
    monkeypatch.setattr(processes, "collect", lambda value: [value, {**value, "on_step": 0}])
    with pytest.raises(ValueError, match="on_step: a function in some processes, None in others"):
        mine.check_alike()


def test_what_a_callback_raises_ends_the_run(tmp_path: Path) -> None:
    def full(event: mk.LogEvent) -> None:
        raise RuntimeError("no room for this line")

    with pytest.raises(RuntimeError, match="no room"):
        mk.train(small(*QUICK), tmp_path / "run", on_log=full)
    assert mk.train(small(*QUICK), tmp_path / "run", resume=True)
