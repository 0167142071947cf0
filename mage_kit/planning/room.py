"""Whether a recipe fits into the machine at hand."""

from __future__ import annotations

import torch

from mage_kit.base.errors import MageKitError
from mage_kit.base.machine import memory_size
from mage_kit.planning.estimate import step_memory
from mage_kit.recipes.build import Parts, weight_bytes
from mage_kit.recipes.recipe import Recipe
from mage_kit.recipes.workload import workload


def memory_note(recipe: Recipe, parts: Parts) -> str | None:
    """Say what of a recipe this machine's memory does not hold; None where it holds all that can be foreseen.

    Args:
        recipe: It holds otherwise.
        parts: Its parts, on the meta device.
    """
    if torch.cuda.is_available():
        place, room = "GPU", torch.cuda.get_device_properties(0).total_memory
    else:
        place, room = "memory", memory_size()
    needs, what, hint = weight_bytes(parts), "its weights take", ""
    if needs <= room and parts.model is not None:
        try:
            micro, memory = step_memory(workload(recipe))
        except MageKitError:
            return None  # it is trained elsewhere, or states no length: nothing is foreseen
        needs, what = int(memory.peak), f"a step of {micro} images takes about"
        hint = " (fewer at once: training.micro_batch, kernels.recompute; mage-kit plan says what takes it)"
    if needs <= room:
        return None
    return f"{what} {needs / 2**30:,.1f} GiB, the {place} here is {room / 2**30:,.1f} GiB{hint}"
