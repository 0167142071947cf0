"""What a selection is: a score for each sampled token; the lowest stay masked.

The decoding loop alone decides how many, and keeps known tokens out of it: a selection returns plain numbers and
needs no sentinel. Legend: B images, L tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from mage_kit.grid import TokenGrid
from mage_kit.registry import NoWires, Registry


@dataclass(frozen=True)
class SelectionStep:
    """What a selection is told.

    Args:
        step: The step, from 1 to `steps`.
        steps: Number of steps, T.
        grid: Where the tokens lie.
        log_p_BL: float32 log-probability of each sampled token; meaningless at known positions.
        uniform_BL: float64 noise in (0, 1), fresh in each step, the same for (seed, image) whatever the batch.
    """

    step: int
    steps: int
    grid: TokenGrid
    log_p_BL: Tensor
    uniform_BL: Tensor


class Selection(ABC):
    """Ranks the tokens sampled in a step. Paper: supplement, "Generation", steps 2 and 3."""

    @abstractmethod
    def score(self, step: SelectionStep) -> Tensor:
        """Return floating scores (B, L); the highest are kept, the lowest are masked again."""


SELECTIONS: Registry[Selection, NoWires] = Registry("selections", Selection, NoWires)
