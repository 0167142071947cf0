"""What a training tells while it runs: plain events for functions of the caller's, called in the first process alone.

What such a function raises ends the run, in all processes alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError

FROM_CALLBACK = "raised by a function that was told of an event"


@dataclass(frozen=True)
class StepEvent:
    """An optimizer step was taken, or left out.

    Args:
        stage: Of the run: "tokenizer", "model", "classifier", or a plug-in task's.
        step: Steps done.
        steps: In all.
        losses: Objective of each player that took part, the mean over processes; not finite where the step was left
            out for it.
        grad_norms: Norm of each player's gradient before clipping.
        skipped: True where nothing was changed.
    """

    stage: str
    step: int
    steps: int
    losses: Mapping[str, float]
    grad_norms: Mapping[str, float]
    skipped: bool


@dataclass(frozen=True)
class LogEvent:
    """A line was written to metrics.jsonl.

    Args:
        stage: Of the run.
        step: Steps done.
        record: The line, as JSON values.
    """

    stage: str
    step: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointEvent:
    """A checkpoint was written.

    Args:
        stage: Of the run.
        step: Steps done.
        folder: Its folder, whole.
    """

    stage: str
    step: int
    folder: Path


@dataclass(frozen=True)
class EndEvent:
    """A stage has ended and what it made is written.

    Args:
        stage: Of the run.
        step: Steps done.
        folder: Of what was made: the run's, or the tokenizer's in it.
        is_whole: False where `until` ended it early: of a model nothing is written then.
    """

    stage: str
    step: int
    folder: Path
    is_whole: bool


@dataclass(frozen=True)
class Callbacks:
    """Who is told.

    Args:
        on_step: Told of each step.
        on_log: Told of each line of the log.
        on_checkpoint: Told of each checkpoint.
        on_end: Told of each stage's end.
    """

    on_step: tuple[Callable[[StepEvent], None], ...] = ()
    on_log: tuple[Callable[[LogEvent], None], ...] = ()
    on_checkpoint: tuple[Callable[[CheckpointEvent], None], ...] = ()
    on_end: tuple[Callable[[EndEvent], None], ...] = ()

    @classmethod
    def of(cls, **functions: Iterable[Callable[[Any], None] | None]) -> Callbacks:
        """Return callbacks by event, without those that are None."""
        return cls(**{name: tuple(each for each in some if each is not None) for name, some in functions.items()})

    def check_alike(self) -> None:
        """Make sure that all processes listen to the same events; else some would wait for the others for ever.

        Raises:
            ValueError: If not, or one of them cannot be called.
        """
        for field in fields(self):
            for function in getattr(self, field.name):
                if not callable(function):
                    raise MageKitError(f"{field.name}: a {type(function).__name__}, must be a function of one event")
        counts = processes.collect({field.name: len(getattr(self, field.name)) for field in fields(self)})
        for name, count in counts[0].items():
            if any(other[name] != count for other in counts):
                raise ValueError(f"{name}: a function in some processes, None in others; pass it in every process")

    def tell(self, event: StepEvent | LogEvent | CheckpointEvent | EndEvent) -> None:
        """Call those whom an event concerns; all processes take part, so that an error is everybody's."""
        listeners: Mapping[type, tuple[Callable[[Any], None], ...]] = {
            StepEvent: self.on_step, LogEvent: self.on_log, CheckpointEvent: self.on_checkpoint, EndEvent: self.on_end,
        }  # fmt: skip
        for function in listeners[type(event)]:
            try:
                processes.on_first(lambda function=function: function(event))  # type: ignore[misc]  # bound at once
            except Exception as error:
                error.add_note(FROM_CALLBACK)
                raise


class TensorBoard:
    """Writes the log's numbers for TensorBoard, in the run folder; nothing where it is not installed.

    Each stage has a folder, since steps begin anew in each. A run that goes on from an earlier step, resumed or rolled
    back, says from which step on what stands there before does not count.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boards: dict[str, tuple[Any, int]] = {}  # and the last step

    def on_log(self, event: LogEvent) -> None:
        """Write a line's numbers; those inside objects as a/b/c."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        board, last = self._boards.get(event.stage, (None, 0))
        if board is None or event.step < last:
            if board is not None:
                board.close()
            board = SummaryWriter(str(self._folder / "tensorboard" / event.stage), purge_step=event.step)
        self._boards[event.stage] = (board, event.step)
        for name, value in _numbers(event.record):
            board.add_scalar(f"{event.stage}/{name}", value, event.step)

    def close(self) -> None:
        """Flush the file."""
        for board, _ in self._boards.values():
            board.close()


def _numbers(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yield numbers with their names."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield before + name, value
