"""What a task meets: the parts it trains, the facts before there is memory, the run, and each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mage_kit.base.draws import generator
from mage_kit.base.precision import Decision
from mage_kit.base.progress import Reporter
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets import Dataset
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.batches import BatchLayout
from mage_kit.training.metrics import MetricsLog

Choose = Callable[[str, str, Callable[[], Decision]], Decision]
"""Takes a name, words around the value ("attention by {}") and what decides; returns what the run began with."""


@dataclass(frozen=True)
class TaskWires:
    """What is wired into a task: the run's tokenizer, and its model (None of a tokenizer alone)."""

    tokenizer: Tokenizer
    model: Any


@dataclass(frozen=True)
class Facts:
    """What a task may look at before there are images and memory.

    Args:
        path: Of its section, as "$.training".
        batch: Images a step.
        micro_batch: Images at once in a process; None for its share.
        data: The recipe's images, by name.
    """

    path: str
    batch: int
    micro_batch: int | None
    data: ComponentConfig | None


@dataclass(frozen=True)
class Context:
    """The run as a task meets it.

    Args:
        images: What it is trained on.
        layout: How a step's images are spread.
        steps: Optimizer steps in all.
        steps_per_epoch: Of the images.
        seed: The recipe's.
        device: Where it computes.
        folder: The run's.
        log: Where lines go beside the loop's own.
        reporter: Where words go.
    """

    images: Dataset
    layout: BatchLayout
    steps: int
    steps_per_epoch: int
    seed: int
    device: torch.device
    folder: Path
    log: MetricsLog
    reporter: Reporter


class TrainingStep:
    """One step; a plain class, so that engine wrappers hand it on untouched.

    Args:
        number: From 0.
        steps: In all.
        seed: The recipe's.
    """

    def __init__(self, number: int, steps: int, seed: int) -> None:
        self.number, self.steps, self.seed = number, steps, seed

    @property
    def progress(self) -> float:
        """Share of the training done, in [0, 1)."""
        return self.number / self.steps

    def generator(self, purpose: str) -> torch.Generator:
        """Return a generator that follows (seed, purpose, step), the same in all processes."""
        return generator(self.seed, purpose, self.number)
