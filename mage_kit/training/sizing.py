"""How many images at once, where a recipe leaves it to the machine: as many as the planner says its memory holds."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from mage_kit.base.machine import memory_size
from mage_kit.base.precision import LARGE, Decision
from mage_kit.planning.estimate import Machine, fitting_share
from mage_kit.recipes.workload import Workload
from mage_kit.training.batches import BatchLayout

_CPU_SHARE = 0.6  # of a CPU's memory: loading and the system need the rest


def size_decision(work: Workload, layout: BatchLayout, device: torch.device, precision: str) -> Decision:
    """Return the largest part of a process's share that fits, in images, and why.

    The memory counted is what the device has, not what is free now: a second run of a recipe takes the same.

    Args:
        work: The training; its `micro_batch` and its precision do not count.
        layout: With the share.
        device: Where.
        precision: "float32" or "bfloat16".
    """
    parameters = sum(value.numel() for value in work.model.parameters())
    if device.type == "cpu" and parameters < LARGE:
        return Decision(str(layout.local), f"by rule: all of a process, {parameters / 1e6:.1f}M parameters on a CPU")
    memory = _memory_of(device) / 2**30
    machine = Machine(processes=layout.world, memory=memory)
    written_out = device.type == "cpu" or work.model.attention in ("matmul", "reference")
    work = replace(work, low_precision=precision == "bfloat16")
    try:
        micro = fitting_share(work, layout.local, machine, "matmul" if written_out else "fused")
    except Exception as error:  # a part from outside that reads a number back has none on the planner's meta device
        why = f"all of a process: the planner cannot walk through the model ({type(error).__name__}: {error})"
        return Decision(str(layout.local), why)
    return Decision(str(micro), f"of the {layout.local} of a process, as many as {memory:.0f} GiB hold by the plan")


def fit_to_share(micro: int, layout: BatchLayout) -> BatchLayout:
    """Return a layout of at most `micro` images at once: a run may go on with more processes, and smaller shares."""
    sizes = [size for size in range(1, layout.local + 1) if layout.local % size == 0 and size <= micro]
    return replace(layout, micro=max(sizes, default=1))


def _memory_of(device: torch.device) -> float:
    """Bytes that a process of this run may take."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return _CPU_SHARE * memory_size() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
