"""Whether a step counts: judged on the device, read by the host later, so that neither waits for the other.

Where an objective or the norm of a gradient is not finite the device leaves the step out by itself: optimizers, running
means and sums stay as they were. The host learns of it one step late, and counts, speaks and rolls back then; before
anything that reads the state (a line of the log, a checkpoint, samples, the end) it catches up. On a CPU there is
nothing to wait for, and it learns at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mage_kit.training.batches import Batch


@dataclass(frozen=True)
class Verdict:
    """What became of a step.

    Args:
        step: Its number, from 0.
        batch: Its images, should it have to be repeated.
        losses: Objective of each player that took part, by name.
        norms: Of their gradients before clipping, by name.
        stop: Whether a process was told to stop.
    """

    step: int
    batch: Batch
    losses: dict[str, float]
    norms: dict[str, float]
    stop: bool

    @property
    def good(self) -> bool:
        """False where the device left the step out."""
        return all(map(math.isfinite, (*self.losses.values(), *self.norms.values())))


def steps_behind(device: torch.device, is_watched: bool) -> int:
    """Return how many steps the host may be behind.

    Args:
        device: Where it computes.
        is_watched: Whether somebody is to be told of each step before the next one begins.
    """
    return 0 if device.type == "cpu" or is_watched else 1


def skips(numbers: Tensor) -> Tensor:
    """Return 1 where one of a step's numbers is not finite, else 0; 0-dim float32 on their device."""
    return 1 - numbers.isfinite().all().float()


class Docket:
    """Steps whose numbers are on their way from the device.

    Args:
        lag: Steps that the host may be behind the device.
    """

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._open: deque[tuple[int, Batch, Sequence[str], Tensor, Any]] = deque()

    def enter(self, step: int, batch: Batch, names: Sequence[str], numbers: Tensor) -> None:
        """Take in a step; its numbers set out for the host.

        Args:
            step: Its number.
            batch: Its images.
            names: Of the players that took part.
            numbers: (2 P + 1,): their objectives, their norms, and above 0 where a process was told to stop.
        """
        arrival = None
        if numbers.device.type == "cuda":
            numbers = numbers.to("cpu", non_blocking=True)
            arrival = torch.cuda.Event()
            arrival.record()
        self._open.append((step, batch, names, numbers, arrival))

    def verdicts(self, all_of_them: bool) -> Iterator[Verdict]:
        """Yield the verdicts that are due, or all, the oldest first."""
        while len(self._open) > (0 if all_of_them else self.lag):
            step, batch, names, numbers, arrival = self._open.popleft()
            if arrival is not None:
                arrival.synchronize()
            *values, stop = numbers.tolist()
            count = len(names)
            losses = dict(zip(names, values[:count], strict=True))
            norms = dict(zip(names, values[count:], strict=True))
            yield Verdict(step, batch, losses, norms, stop > 0)

    def clear(self) -> None:
        """Forget steps that a return to a checkpoint undoes."""
        self._open.clear()
