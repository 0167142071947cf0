"""A run that goes on beyond its end: more epochs, or another rate, from its newest checkpoint.

What was trained before, and what was measured of it, stays: a folder under earlier/, from which it can be loaded.
Whether the result is that of a run which was so long from the start depends on its learning rate: `compare_rates` says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic
from mage_kit.base.manifest import list_files, unlist
from mage_kit.base.plugins import PLUGINS_FILE
from mage_kit.base.precision import Decision
from mage_kit.store.folders import EMA_FILE, MODEL_FILE, RECIPE_FILE, TOKENIZER_FOLDER
from mage_kit.store.run_folders import CHECKPOINTS, EARLIER, RESULTS, TOKENIZER_RESULTS
from mage_kit.training.checkpoints import list_checkpoints, step_of, verify_checkpoint
from mage_kit.training.folder import CODE_FILE, DATA_FILE
from mage_kit.training.job import Job
from mage_kit.training.metrics import read_metrics
from mage_kit.training.players import Player

_SAME = 1e-9  # share by which rates may differ: the log's digits
_ABOUT = (RECIPE_FILE, DATA_FILE, PLUGINS_FILE, CODE_FILE)  # what a folder needs beside weights to be loaded


def check_extension(out: Path, job: Job) -> None:
    """Make sure that a run has something sound to go on from, and something to go on to.

    Args:
        out: Its folder.
        job: Its last training, as the new recipe has it.

    Raises:
        MageKitError: If there is no checkpoint, the newest is damaged, or there is no step beyond it.
    """
    checkpoints = list_checkpoints(out / CHECKPOINTS / job.task.stage)
    if not checkpoints:
        hint = "start a new run from its weights (pretrained.weights, with parts all)"
        raise MageKitError(f"--extend {out}: there is no checkpoint of the {job.task.stage} to go on from; {hint}")
    try:
        verify_checkpoint(checkpoints[-1])
    except MageKitError as error:
        raise MageKitError(f"--extend {out}: {error}; remove that checkpoint to go on from the one before") from None
    if (done := step_of(checkpoints[-1])) >= job.steps:
        rule = f"{job.path}: {job.steps} steps, {done} are done already; more epochs or steps must be asked for"
        raise MageKitError(f"--extend {out}: {rule}")


def set_aside(out: Path, job: Job) -> None:
    """Move what a run that had ended made, and what was measured of it, to a folder of its own.

    Killed in between, the same call goes on: the model, whose file says that a run is complete, goes last.
    """
    makes_tokenizer = job.fingerprint is not None
    weights = [out / name for name in ((TOKENIZER_FOLDER,) if makes_tokenizer else (EMA_FILE, MODEL_FILE))]
    if not weights[-1].exists():
        return
    done = step_of(list_checkpoints(out / CHECKPOINTS / job.task.stage)[-1])
    place = out / EARLIER / f"step-{done:08d}"
    place.mkdir(parents=True, exist_ok=True)
    for name in _ABOUT:
        if (out / name).is_file():
            with atomic(place / name, listed=True) as temporary:
                shutil.copyfile(out / name, temporary)
    for name in (*RESULTS, *(TOKENIZER_RESULTS if makes_tokenizer else ())):
        if (out / name).exists() and not (place / name).exists():
            os.rename(out / name, place / name)
    for path in weights:
        if path.exists():
            _move(path, place / path.name)


def _move(path: Path, place: Path) -> None:
    """Move a listed file, or a folder with a list of its own; the list follows before the file goes."""
    if path.is_dir():
        shutil.rmtree(place, ignore_errors=True)
        os.rename(path, place)
        return
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    try:
        os.link(path, place)
    except OSError:  # a file system without hard links
        with atomic(place) as temporary:
            shutil.copyfile(path, temporary)
    list_files(place)
    unlist(path)
    path.unlink()


def compare_rates(out: Path, stage: str, players: Sequence[Player], steps: int, done: int) -> Decision:
    """Say whether the steps done had the learning rates of a run that was so long from the start.

    Args:
        out: The run's folder, with its log: the rates of the steps that it has are compared.
        stage: Of the training.
        players: Who trains.
        steps: Of the training as it is now.
        done: Steps done.
    """
    records = [record for record in read_metrics(out, stage) if record["step"] <= done]
    value = f"from step {done} to {steps}"
    for record in records:
        for number, player in enumerate(players):
            before = record.get(f"lr_{player.name}" if number else "lr")
            now = player.rate_at(int(record["step"]) - 1, steps)
            if before is not None and abs(before - now) > _SAME * max(before, now):
                words = f"the learning rate of step {record['step']} was {before:g}, of {steps} steps it is {now:g}"
                return Decision(value, f"{words}; the result is not that of so long a run from the start")
    words = f"the learning rates of the {len(records)} steps in its log are those of so long a run"
    return Decision(value, f"{words}, whose result this is if nothing else follows the length")
