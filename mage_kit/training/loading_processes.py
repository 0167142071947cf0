"""How many processes load images, where a recipe leaves it to the machine: what loading takes, beside what trains."""

from __future__ import annotations

import contextlib
import math
import os
import time

import torch

from mage_kit.base.errors import BrokenImageError
from mage_kit.datasets import Dataset

_TIMED = 16  # images
_ROOM = 1.25  # of the processes needed: images differ
_GPU_FLOPS = 400e12  # a second that training reaches on a GPU of 2023; a slower one is fed as well


def count_workers(images: Dataset, device: torch.device, operations: float | None) -> tuple[int, str]:
    """Return how many processes should load images beside each training process, and why.

    Args:
        images: What is loaded.
        device: Where training runs.
        operations: Of an image in training; None where nobody knows, and every core is taken.
    """
    if images.gives_tokens:
        return 0, "tokens are mapped into memory"
    if device.type == "cpu":
        return 0, f"by rule: on a {device.type} loading and training share the cores"
    cores = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    seconds = seconds_an_image(images)
    words = f"{seconds * 1e3:.1f} ms an image on one core: {loading_words(seconds, cores)}"
    if operations is None:
        return max(0, cores - 1), words
    needed = math.ceil(_ROOM * seconds * _GPU_FLOPS / operations)
    return min(needed, max(1, cores - 1)), f"{words}; training may take {_GPU_FLOPS / operations:,.0f}"


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
