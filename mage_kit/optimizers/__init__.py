"""Optimizers: how parameters move by their gradients; a slot of the tasks."""

from mage_kit.optimizers.adamw import AdamW
from mage_kit.optimizers.base import (
    OPTIMIZERS,
    MakeOptimizer,
    Optimizer,
    OptimizerSlot,
    build_optimizer,
    optimizer_config,
    set_lr,
    take_step,
)
from mage_kit.optimizers.lars import LARS
from mage_kit.optimizers.layer_rates import has_blocks, parameter_groups

__all__ = [
    "LARS",
    "OPTIMIZERS",
    "AdamW",
    "MakeOptimizer",
    "Optimizer",
    "OptimizerSlot",
    "build_optimizer",
    "has_blocks",
    "optimizer_config",
    "parameter_groups",
    "set_lr",
    "take_step",
]
