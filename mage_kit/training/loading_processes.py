"""How many processes load images, where a recipe leaves it to the machine: what loading takes, beside what trains."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING

import torch

from mage_kit.base.errors import BrokenImageError
from mage_kit.datasets import Dataset

if TYPE_CHECKING:
    from mage_kit.training.job import Job

_TIMED = 16  # images
_ROOM = 1.25  # of the processes needed: images differ
_MOST = 16  # processes: their batches lie in shared memory
_GPU_FLOPS = 400e12  # a second that training reaches on a GPU of 2023; a slower one is fed as well


def count_workers(job: Job, device: torch.device) -> tuple[int, str]:
    """Return how many processes should load images beside each training process, and why.

    Args:
        job: With the images, and what an image takes in training where the planner knows.
        device: Where training runs.
    """
    if job.images.gives_tokens:
        return 0, "tokens are mapped into memory"
    if device.type == "cpu":
        return 0, f"by rule: on a {device.type} loading and training share the cores"
    cores = own_cores()
    seconds = seconds_an_image(job.images)
    words = f"{seconds * 1e3:.1f} ms an image on one core: {loading_words(seconds, cores)}"
    most = max(1, min(_MOST, cores - 1))
    try:
        operations = None if job.operations is None else job.operations()
    except Exception:  # a part from outside that reads a number back has none on the planner's meta device
        operations = None
    if operations is None:
        return most, words
    enough = math.ceil(_ROOM * seconds * _GPU_FLOPS / operations)
    return min(enough, most), f"{words}; training may take {_GPU_FLOPS / operations:,.0f}"


def own_cores() -> int:
    """Return the cores that this process may use: those that it is bound to, or its part of the machine's."""
    whole = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else whole
    shared = mine == whole  # bound to fewer, as SLURM's tasks are, it shares them with no other
    return max(1, mine // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if shared else mine)


def loading_words(seconds: float, cores: int) -> str:
    """Say how many cores a thousand images a second take."""
    return f"1,000 images/s need {max(1, math.ceil(1000 * seconds))} of your {cores} cores"


def seconds_an_image(images: Dataset) -> float:
    """Return what loading one image takes in this process: the median of a few, spread over the data."""
    times = []
    for number in range(min(_TIMED, len(images))):
        start = time.perf_counter()
        with contextlib.suppress(BrokenImageError):
            images.sample(number * len(images) // _TIMED if len(images) > _TIMED else number, 0, 0)
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] if times else 0.0
