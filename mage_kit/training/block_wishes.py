"""What a recipe asks of the transformer blocks."""

from __future__ import annotations

from mage_kit.block_settings import WithBlocks
from mage_kit.progress import Reporter
from mage_kit.sections import Kernels


def set_blocks(kernels: Kernels, model: WithBlocks, reporter: Reporter) -> None:
    """Recompute and compile as the recipe says; say so where there is nothing to do it with."""
    wishes = {"recompute": kernels.recompute, "compile": kernels.compile}
    counts = {"recompute": model.set_recomputation(wishes["recompute"])}
    counts["compile"] = model.compile_blocks() if wishes["compile"] else 0
    for name, wanted in wishes.items():
        if wanted and not counts[name]:
            reporter.say(f"$.kernels.{name}: true, but this model has no blocks of ours: nothing changes")
