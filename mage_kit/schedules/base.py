"""What a sampling schedule is: a falling curve from 1 to 0, and the counts that follow from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mage_kit.base.registry import Registry
from mage_kit.base.signature import NoWires


class Schedule(ABC):
    """Share of the unknown tokens that stays masked. Paper: supplement, "Generation", step 3."""

    @abstractmethod
    def remaining(self, progress: float) -> float:
        """Return the share still masked, in [0, 1], at a progress t / T in [0, 1]; 1 at 0, 0 at 1, never rising."""

    def check(self, steps: int) -> None:
        """Hold the curve to the contract at the steps used.

        Raises:
            ValueError: If a share is no number in [0, 1], or the curve rises.
        """
        before = 1.0
        for step in range(1, steps + 1):
            share = self.remaining(step / steps)
            if not isinstance(share, int | float) or not 0 <= share <= before + 1e-9:
                raise ValueError(
                    f"schedule: {type(self).__name__} gives {share} at {step} of {steps} steps, "
                    f"must be a number in [0, 1] that never rises (before: {before:g})"
                )
            before = share

    def next_counts(self, unknown_B: Tensor, masked_B: Tensor, step: int, steps: int) -> Tensor:
        """Return how many tokens of each image stay masked after a step.

        Args:
            unknown_B: int64, unknown tokens of each image at the start.
            masked_B: int64, tokens still masked before this step.
            step: The step, from 1 to `steps`.
            steps: Number of steps, T.

        Returns:
            int64: floor(unknown * remaining(step / steps)), at least 1 and at most masked - 1; after the last step 0.
        """
        if step >= steps:
            return torch.zeros_like(masked_B)
        share = self.remaining(step / steps)
        # The product is taken in float64 on both sides of the API, so that host tables and devices agree.
        counts_B = (unknown_B.to(torch.float64) * share).floor().to(torch.int64).clamp_min(1)
        return torch.minimum(counts_B, masked_B - 1).clamp_min(0)

    def counts(self, unknown: int, steps: int) -> list[int]:
        """Return the number masked after each of `steps` steps, for one image; ends in 0."""
        self.check(steps)
        masked, result = unknown, []
        for step in range(1, steps + 1):
            target = 0 if step == steps else max(1, math.floor(unknown * self.remaining(step / steps)))
            masked = max(0, min(target, masked - 1))
            result.append(masked)
        return result


SCHEDULES: Registry[Schedule, NoWires] = Registry("schedules", Schedule, NoWires)
