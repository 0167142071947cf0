"""A run that goes on beyond its end: more epochs, or another rate, from its newest checkpoint.

What was trained before stays as it is: a model folder under earlier/. Whether the result is that of a run which was so
long from the start depends on its learning rate: `rate_words` compares what the log says with the new schedule.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic_folder
from mage_kit.base.manifest import unlist
from mage_kit.store.folders import EMA_FILE, MODEL_FILE, RECIPE_FILE
from mage_kit.store.run_folders import EARLIER
from mage_kit.training.checkpoints import list_checkpoints, step_of
from mage_kit.training.metrics import read_metrics
from mage_kit.training.players import Player
from mage_kit.training.resolve import Job

_SAME = 1e-9  # by which rates may differ: the log's digits


def check_extension(out: Path, job: Job) -> None:
    """Make sure that a run has something to go on from, and something to go on to.

    Args:
        out: Its folder.
        job: Its last training, as the new recipe has it.

    Raises:
        MageKitError: If there is no checkpoint, or no step beyond it.
    """
    checkpoints = list_checkpoints(out / "checkpoints" / job.task.stage)
    if not checkpoints:
        hint = "start a new run from its weights (pretrained.weights, with parts all)"
        raise MageKitError(f"--extend {out}: there is no checkpoint of the {job.task.stage} to go on from; {hint}")
    if (done := step_of(checkpoints[-1])) >= job.steps:
        rule = f"{job.path}: {job.steps} steps, {done} are done already; more epochs or steps must be asked for"
        raise MageKitError(f"--extend {out}: {rule}")


def set_aside(out: Path, job: Job) -> None:
    """Move the model of a run that had ended to a folder of its own, from which it can be loaded."""
    model = out / MODEL_FILE
    if not model.is_file():
        return
    done = step_of(list_checkpoints(out / "checkpoints" / job.task.stage)[-1])
    files = [model, *([out / EMA_FILE] if (out / EMA_FILE).is_file() else [])]
    with atomic_folder(out / EARLIER / f"step-{done:08d}", listed=True) as temporary:
        shutil.copy2(out / RECIPE_FILE, temporary / RECIPE_FILE)
        for file in files:
            try:
                os.link(file, temporary / file.name)
            except OSError:  # a file system without hard links
                shutil.copy2(file, temporary / file.name)
    for file in files:  # last: the model's file says that a run is complete
        with contextlib.suppress(FileNotFoundError):
            unlist(file)
            file.unlink()


def rate_words(out: Path, stage: str, players: Sequence[Player], steps: int, done: int) -> str:
    """Say whether the steps done had the learning rates of a run that was so long from the start.

    Args:
        out: The run's folder, with its log.
        stage: Of the training.
        players: Who trains.
        steps: Of the training as it is now.
        done: Steps done.
    """
    for record in read_metrics(out, stage):
        for number, player in enumerate(players):
            before = record.get(f"lr_{player.name}" if number else "lr")
            now = player.rate_at(int(record["step"]) - 1, steps)
            if record["step"] <= done and before is not None and abs(before - now) > _SAME * max(before, now):
                words = f"the learning rate of step {record['step']} was {before:g}, of {steps} steps it is {now:g}"
                return f"extended to {steps} steps: {words}; the result is not that of so long a run from the start"
    return f"extended to {steps} steps: the rates of the {done} done are those of so long a run, and so is the result"
