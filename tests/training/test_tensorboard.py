"""TensorBoard's curves after a run was resumed or rolled back: each step once."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mage_kit.training.events import LogEvent, TensorBoard

WRITERS: list[Writer] = []


class Writer:
    """Stands for TensorBoard's own, which drops what stands in its folder from `purge_step` on."""

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder, self.purge_step, self.steps, self.is_closed = Path(folder), purge_step, list[int](), False
        WRITERS.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.steps.append(step)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    WRITERS.clear()


def shown(stage: str) -> list[int]:
    """Return the steps that TensorBoard shows of a stage."""
    steps: list[int] = []
    for writer in (writer for writer in WRITERS if writer.folder.name == stage):
        assert writer.purge_step is not None
        steps = [step for step in steps if step < writer.purge_step] + writer.steps
    return steps


def log(board: TensorBoard, stage: str, *steps: int) -> None:
    for step in steps:
        board.on_log(LogEvent(stage, step, {"step": step, "loss": 1.0}))


def test_each_step_is_shown_once(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path)
    log(first, "tokenizer", 10, 20, 30)
    log(first, "model", 10, 20, 30, 40)
    first.close()
    assert all(writer.is_closed for writer in WRITERS)
    resumed = TensorBoard(tmp_path)
    log(resumed, "model", 30, 40, 50, 60)
    log(resumed, "model", 40, 50, 60, 70)  # rolled back
    resumed.close()
    assert shown("tokenizer") == [10, 20, 30], "a stage's steps are not another's"
    assert shown("model") == [10, 20, 30, 40, 50, 60, 70]
    assert all(writer.is_closed for writer in WRITERS)


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log(TensorBoard(tmp_path), "model", 10)
    assert not list(tmp_path.iterdir())
