"""Progress of long work: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mage_kit.base.console import PlainConsole, printable

_LINE_SECONDS = 5.0


class Reporter:
    """Where a run tells what it does.

    Args:
        console: Rich's console; None makes one on standard error, so that results can be piped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or PlainConsole(stderr=True)

    @classmethod
    def silent(cls) -> Reporter:
        """Return one that says nothing, for all processes of a run but the first."""
        return cls(PlainConsole(quiet=True))

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def task(self, name: str, total: int, first: int = 0) -> Iterator[ProgressTask]:
        """Show the progress of one piece of work."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeElapsedColumn(), TimeRemainingColumn(),
            )  # fmt: skip
            with Progress(*columns, console=self.console) as bar:
                yield ProgressTask(
                    self, name, total, bar, bar.add_task(printable(name), total=total, completed=first, note="")
                )
        else:
            yield ProgressTask(self, name, total, None, None, first)


class ProgressTask:
    """One piece of work with a total; see `Reporter.task`."""

    def __init__(
        self,
        reporter: Reporter,
        name: str,
        total: int,
        bar: Progress | None,
        task: TaskID | None,
        first: int = 0,
    ) -> None:
        self._reporter, self._name, self._total = reporter, name, total
        self._bar, self._task = bar, task
        self._start, self._first, self._last = time.monotonic(), first, 0.0

    def update(self, count: int, note: str = "") -> None:
        """Tell how much is done, with a short note (loss, images a second)."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=count)
            if note:
                self._bar.update(self._task, note=printable(note))
            return
        now = time.monotonic()
        if now - self._last >= _LINE_SECONDS or count >= self._total:
            self._last = now
            rate = (now - self._start) / max(1, count - self._first)
            seconds = rate * (self._total - count)
            self._reporter.say(
                f"{self._name}: {count}/{self._total}  {note}  {seconds:.0f} s left".replace("    ", "  ")
            )
