"""The host reads a step's numbers one step late: nothing in a step waits for the device, and nothing else differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import mage_kit as mk
from mage_kit.tokenizers import streams
from mage_kit.training.tasks.masked import Masked
from mage_kit.training.train import Loop, train
from mage_kit.training.verdicts import Docket, steps_behind
from tests.training.test_processes import CONTRAST
from tests.training.test_training import curve, small


class Reads(TorchDispatchMode):
    """Counts numbers that Python reads from tensors, but for those that are on the host wherever a model is."""

    count = 0
    paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default) and not Reads.paused:
            self.count += 1
        return func(*args, **(kwargs or {}))

    def watch(self, function: Any) -> Any:
        """Return a method of tensors that is counted."""

        def run(*words: Any, **names: Any) -> Any:
            self.count += not Reads.paused
            return function(*words, **names)

        return run

    @classmethod
    def pause(cls, function: Any) -> Any:
        """Return a function during which nothing is counted."""

        def run(*words: Any, **names: Any) -> Any:
            cls.paused = True
            try:
                return function(*words, **names)
            finally:
                cls.paused = False

        return run


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mage_kit.training.train.Docket", lambda _: Docket(1))


CHANGES: dict[str, list[str]] = {
    "mage": [],
    "mage_c": CONTRAST[1:],
    "mean": ["training.ema=0.99"],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_reads_nothing_back(name: str, late: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, list[int]] = {}
    step = Loop._step

    def watched(self: Loop, *words: Any) -> None:
        with Reads() as reads, pytest.MonkeyPatch.context() as within:
            for name in ("tolist", "numpy", "item", "__bool__", "__float__", "__int__"):  # a CPU's tell no operator
                within.setattr(torch.Tensor, name, reads.watch(getattr(torch.Tensor, name)))
            step(self, *words)
        counts.setdefault(self.task.stage, []).append(reads.count)

    monkeypatch.setattr(Loop, "_step", watched)
    # Ratios are drawn on the host; ids are looked at on a CPU alone (tests/models/test_one_graph.py: not elsewhere).
    monkeypatch.setattr(Masked, "cut", Reads.pause(Masked.cut))
    monkeypatch.setattr(streams, "_encoded", Reads.pause(streams._encoded))
    train(small(*CHANGES[name], "training.log_every=10", "training.checkpoint_every=10"), tmp_path / "run")
    # One: the numbers of masked tokens, which are drawn on the host, when the masks are planned.
    assert len(counts["model"]) >= 28 and set(counts["model"]) == {1}, counts


def test_late_or_at_once_the_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for lag in (0, 1):
        monkeypatch.setattr("mage_kit.training.train.Docket", lambda _, lag=lag: Docket(lag))
        train(small(), tmp_path / str(lag))
    one, two = (load_file(tmp_path / str(lag) / "model.safetensors") for lag in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    lines = [[line for line in curve(tmp_path / str(lag)) if line["stage"] == "model"] for lag in (0, 1)]
    assert len(lines[0]) > 2 and lines[0] == lines[1]


def test_a_cpu_is_not_waited_for_and_listeners_hear_of_each_step_before_the_next() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [steps_behind(cpu, False), steps_behind(gpu, False), steps_behind(gpu, True)] == [0, 1, 0]


def test_a_run_stopped_and_taken_up_goes_on_alike(late: None, tmp_path: Path) -> None:
    """The stop falls between two lines of the log, so a verdict is open then."""
    train(small(), tmp_path / "whole")
    train(small(), tmp_path / "halves", until=13)
    train(small(), tmp_path / "halves", resume=True)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert isinstance(mk.load(tmp_path / "halves"), mk.Mage)
