"""The one training loop: both stages run through it, with checkpoints, log and progress."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.draws import derive
from mage_kit.errors import MageKitError
from mage_kit.progress import Reporter
from mage_kit.training.checkpoints import (
    Checkpointed,
    drop_unfinished,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from mage_kit.training.loader import Batch
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.optim import lr_at, set_lr


@dataclass(frozen=True)
class LoopPlan:
    """Numbers of a stage's loop.

    Args:
        name: "tokenizer" or "model".
        steps: Optimiser steps in all.
        batch: Images a step.
        steps_per_epoch: For the epoch in the log.
        warmup: Steps of linear warm-up.
        lr: Peak learning rate.
        log_every: Steps between two lines of metrics.
        checkpoint_every: Steps between two checkpoints.
        keep: Checkpoints kept.
        seed: The recipe's.
    """

    name: str
    steps: int
    batch: int
    steps_per_epoch: int
    warmup: int
    lr: float
    log_every: int
    checkpoint_every: int
    keep: int
    seed: int


class Stage(ABC):
    """What differs between the stages: one step, and what is said about it."""

    @abstractmethod
    def step(self, batch: Batch, step: int, progress: float) -> Tensor:
        """Do forward, backward, clipping and the optimiser's step; return the gradient norm, on the device."""

    @abstractmethod
    def read(self) -> dict[str, Any]:
        """Return the metrics gathered since the last call, with "loss", and start again."""

    @abstractmethod
    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of steps `first` to `last` - 1."""

    @property
    @abstractmethod
    def kept(self) -> Checkpointed:
        """What a checkpoint holds."""

    def note(self, record: dict[str, Any]) -> str:
        """Return a few words for the progress line."""
        return f"loss {record['loss']:.4f}"


def run_loop(stage: Stage, plan: LoopPlan, folder: Path, recipe_json: str, log: MetricsLog, reporter: Reporter) -> None:
    """Train from the newest checkpoint, or from the start, to the last step.

    Args:
        stage: What a step does.
        plan: How many, how often.
        folder: The run folder.
        recipe_json: Written into each checkpoint.
        log: Where metrics go.
        reporter: Where progress goes.

    Raises:
        MageKitError: If the loss is no longer finite.
    """
    checkpoints = folder / "checkpoints" / plan.name
    first = resume(stage, checkpoints, reporter)
    log.rewind(plan.name, first)
    clock, since = time.monotonic(), first
    healthy: Tensor | None = None
    with reporter.task(f"training the {plan.name}", plan.steps, first) as task:
        for step, batch in enumerate(stage.batches(first, plan.steps), start=first):
            # Dropout follows (seed, step): exact on resume without storing the generator's state.
            torch.manual_seed(derive(plan.seed, f"dropout-{plan.name}", step))
            lr = lr_at(step, plan.steps, plan.warmup, plan.lr)
            set_lr(stage.kept.optimizer, lr)
            norm = stage.step(batch, step, step / plan.steps)
            healthy = torch.isfinite(norm) if healthy is None else healthy & torch.isfinite(norm)
            done = step + 1
            note = ""
            log_now, save_now = (
                done % every == 0 or done == plan.steps for every in (plan.log_every, plan.checkpoint_every)
            )
            if log_now or save_now:  # read back here only; a step waits for nothing
                _refuse_non_finite(bool(healthy), done, plan.name)
            if log_now:
                record = {
                    "stage": plan.name,
                    "step": done,
                    "epoch": done / plan.steps_per_epoch,
                    **stage.read(),
                }
                rate = (done - since) * plan.batch / (time.monotonic() - clock)
                record |= {"lr": lr, "grad_norm": float(norm), "images_per_s": round(rate, 1)}
                clock, since = time.monotonic(), done
                log.write(record)
                note = f"{stage.note(record)}  {rate:.0f} images/s"
            if save_now:
                save_checkpoint(checkpoints, done, stage.kept, recipe_json, plan.keep)
            if note:
                task.update(done, note)


def resume(stage: Stage, checkpoints: Path, reporter: Reporter) -> int:
    """Load the newest checkpoint that verifies; return the steps done, 0 without any.

    A damaged one is told and passed over for the one before.

    Raises:
        MageKitError: If there are checkpoints, but none verifies: to start over is the user's decision.
    """
    drop_unfinished(checkpoints)
    for path in reversed(list_checkpoints(checkpoints)):
        try:
            step = load_checkpoint(path, stage.kept)
        except (MageKitError, OSError, ValueError, KeyError, TypeError) as error:
            reporter.say(f"checkpoint {path} is damaged and passed over: {error}")
            continue
        reporter.say(f"resuming from {path}")
        return step
    if list_checkpoints(checkpoints):
        raise MageKitError(
            f"checkpoints: none in '{checkpoints}' can be read; remove that folder to start the stage over"
        )
    return 0


def _refuse_non_finite(healthy: bool, step: int, name: str) -> None:
    """Raise before anything is written, so that no checkpoint holds what a non-finite gradient left."""
    if not healthy:
        raise MageKitError(
            f"training the {name}: loss or gradient not finite at or before step {step}, must be; the last checkpoint"
            " is intact; start a new run with a lower learning rate, or with training.precision float32"
        )
