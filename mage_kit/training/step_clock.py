"""What a training waits for: shares of its time that go to data, to the tokenizer, to the model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class StepClock:
    """Sums up what the parts of steps take.

    Data is what the host waits for batches: beside a GPU, which is given a step ahead, the host waits for them only
    where loading is the slower one. Tokenizing is timed where it runs, on a GPU between events; the model has the rest.

    Args:
        device: Where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._data = self._tokens = 0.0
        self._since = time.monotonic()

    def add_wait(self, seconds: float) -> None:
        """Take in what the host waited for a batch."""
        self._data += seconds

    @contextlib.contextmanager
    def tokenizing(self) -> Iterator[None]:
        """What runs inside makes tokens of images."""
        if self._device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
            return
        start = time.monotonic()
        yield
        self._tokens += time.monotonic() - start

    def read(self) -> dict[str, float]:
        """Return {"data", "tokenizer", "model"}, shares that sum up to 1, since the last call; start again.

        All steps must have been judged: their events have passed then.
        """
        now = time.monotonic()
        tokens = self._tokens + sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
        whole = max(now - self._since, self._data + tokens, 1e-9)
        shares = {"data": self._data / whole, "tokenizer": tokens / whole}
        self.start()
        shares["model"] = 1.0 - sum(shares.values())
        return {name: round(share, 3) for name, share in shares.items()}

    def start(self) -> None:
        """Begin anew, as after a return to a checkpoint."""
        self._events.clear()
        self._data = self._tokens = 0.0
        self._since = time.monotonic()


def words(shares: dict[str, float]) -> str:
    """Say what a training waits for, where it is more than the model."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != "model" and share >= 0.01)
