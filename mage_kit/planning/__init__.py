"""What a recipe costs before it runs: operations, memory, days, traffic."""

from mage_kit.planning.estimate import Estimate, Machine, estimate
from mage_kit.planning.memory import Memory, memory_of_step
from mage_kit.planning.passes import Passes, operations_of
from mage_kit.planning.walk import Cost, walk_step, walk_tokenizer

__all__ = [
    "Cost",
    "Estimate",
    "Machine",
    "Memory",
    "Passes",
    "estimate",
    "memory_of_step",
    "operations_of",
    "walk_step",
    "walk_tokenizer",
]
