"""What a user may meet: one sentence, or what is right; never a bug's line, an endless wait, or all of the memory."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 15
MIB = 1024  # most that a case may take above what was taken before
_NAMES = ("Traceback", "Error(", "Exception", "KeyError", "TypeError", "AttributeError", "object at 0x", "<class")


class TooLongError(BaseException):
    """A case took longer than it may; no handler of the program's takes it for its own."""


@contextlib.contextmanager
def limited(case: object) -> Iterator[None]:
    """Fail a case that takes too long or too much."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"over {SECONDS} s: {case!r:.500}")

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: that of an earlier case hides nothing
    before, was = peak(), signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, was)
    assert peak() - before < MIB, f"{peak() - before:.0f} MiB: {case!r:.500}"


def peak() -> float:
    """Most memory that this process took since its peak began anew, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def outcome(case: object, work: Callable[[], Any], *others: type[Exception]) -> Any:
    """Return what work returns, or the error that a user may cause; anything else fails the test.

    Args:
        case: What is tried, for the failure's message.
        work: The try.
        others: Further types of errors that are right here.
    """
    with limited(case):
        try:
            return work()
        except (ValueError, OSError, ImportError, *others) as error:
            check_words(str(error), case)
            return error
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\ncase: {case!r:.3000}") from error


def check_words(text: str, case: object) -> None:
    """An error must be words for people."""
    assert text.strip(), f"an error without words: {case!r:.1000}"
    assert len(text) < 20_000, f"{len(text)} characters: {case!r:.1000}"
    for name in _NAMES:
        assert name not in text or name in repr(case), f"'{name}' in: {text[:500]}\ncase: {case!r:.1000}"
