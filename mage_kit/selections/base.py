"""What a selection is: a score for each sampled token; the lowest stay masked.

The decoding loop alone decides how many, and keeps known tokens out of it: a selection returns plain numbers and
needs no sentinel. Legend: B images, L tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from mage_kernels import gumbel
from torch import Tensor

from mage_kit.base.grid import TokenGrid
from mage_kit.base.registry import Registry
from mage_kit.base.signature import NoWires
from mage_kit.layers.predictions import Predictions


@dataclass(frozen=True)
class SelectionStep:
    """What a selection is told.

    Args:
        step: The step, from 1 to `steps`.
        steps: Number of steps, T.
        grid: Where the tokens lie.
        log_p_BL: float32 log-probability of each sampled token; meaningless at known positions.
        uniform_BL: float64 noise in (0, 1), fresh in each step, the same for (seed, image) whatever the batch.
        predictions: For selections that read them, else None.
    """

    step: int
    steps: int
    grid: TokenGrid
    log_p_BL: Tensor
    uniform_BL: Tensor
    predictions: Predictions | None = None

    def read(self) -> Predictions:
        """Return the predictions.

        Raises:
            ValueError: If there are none: the selection does not state `reads_predictions`.
        """
        if self.predictions is None:
            raise ValueError("selection: reads predictions, so its class must state reads_predictions = True")
        return self.predictions

    def fading_noise(self, temperature: float) -> Tensor:
        """Return temperature (1 - t / T) Gumbel noise (B, L): it fades to 0 over the steps."""
        return temperature * (1 - self.step / self.steps) * gumbel(self.uniform_BL)


class Selection(ABC):
    """Ranks the tokens sampled in a step. Paper: supplement, "Generation", steps 2 and 3.

    Attributes:
        reads_predictions: True where the step is to carry the model's predictions, which cost another pass over the
            logits.
        revises: True where tokens decoded in earlier steps may be masked again: the step then scores every token that
            was unknown at the start, those decoded before by the log-probability that the model gives them now. Tokens
            known at the start stay out of it.
    """

    reads_predictions: ClassVar[bool] = False
    revises: ClassVar[bool] = False

    @abstractmethod
    def score(self, step: SelectionStep) -> Tensor:
        """Return floating scores (B, L); the highest are kept, the lowest are masked again."""


SELECTIONS: Registry[Selection, NoWires] = Registry("selections", Selection, NoWires)
