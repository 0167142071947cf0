"""One training of a run, and how it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from mage_kit.base.precision import Decision
from mage_kit.datasets import Dataset
from mage_kit.training.batches import BatchLayout
from mage_kit.training.tasks.base import Task


@dataclass(frozen=True)
class Job:
    """One training of a run.

    Args:
        path: Of its section, as "$.training".
        task: What it does.
        images: What it is trained on.
        layout: How a step's images are spread.
        steps: Optimizer steps.
        precision: As asked: "auto", "float32" or "bfloat16".
        workers: Processes that load images; None: as many as it takes here.
        log_every: Steps between two lines of metrics.
        checkpoint_every: Steps between two checkpoints.
        keep: Newest checkpoints that stay.
        keep_every: So do those of every so many steps; None for no others.
        skip_limit: Non-finite steps in a row before the last checkpoint is taken up again.
        rollbacks: How often that is done.
        recompute: Whether blocks keep their inputs alone.
        compile: Whether blocks are compiled; "auto" where that is measured.
        residual: Sums along the blocks: "float32" or "bfloat16".
        fingerprint: What the tokenizer that it makes depends on; None for other jobs.
        operations: Of an image in training; None where nobody knows.
        sizes: Says how many images at once a device holds in a precision; None where the recipe says so, images at
            once are each other's negatives, so that their number matters, or nobody can.
    """

    path: str
    task: Task
    images: Dataset
    layout: BatchLayout
    steps: int
    precision: str
    workers: int | None
    log_every: int
    checkpoint_every: int
    keep: int
    keep_every: int | None
    skip_limit: int
    rollbacks: int
    recompute: bool
    compile: bool | Literal["auto"]
    residual: str
    fingerprint: str | None
    operations: Callable[[], float] | None = None
    sizes: Callable[[torch.device, str], Decision] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the images."""
        return len(self.images) // self.layout.batch
