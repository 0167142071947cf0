"""What an optimizer is: settings, of which each player makes a torch optimizer for its own parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import local
from mage_kit.base.registry import Registry
from mage_kit.base.signature import ComponentConfig, NoWires
from mage_kit.optimizers.layer_rates import parameter_groups

MakeOptimizer = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]
"""Makes a torch optimizer of parameters by name; an `Optimizer` is one. Groups may have a `rate`, see `set_lr`."""


class Optimizer(ABC):
    """Moves parameters by their gradients.

    Attributes:
        state_values: float32 numbers kept for each number that is trained, for the planner.
    """

    state_values: ClassVar[float] = 2.0

    @abstractmethod
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return a torch optimizer that steps without a closure.

        Args:
            groups: Groups of parameters as torch takes them, each with "params", its "rate" (share of the learning
                rate), and "decays": false for 1-D tensors and biases, which no published recipe decays.
        """

    def __call__(self, parameters: Mapping[str, nn.Parameter], layer_decay: float = 1.0) -> torch.optim.Optimizer:
        """Return a torch optimizer of parameters by name, with layer-wise rates where `layer_decay` is below 1."""
        return self.make(parameter_groups(parameters, layer_decay))


OPTIMIZERS: Registry[Optimizer, NoWires] = Registry(
    "optimizers",
    Optimizer,
    NoWires,
    slot_fields={
        "layer_decay": (
            Annotated[float, Field(gt=0, le=1)],
            Field(1.0, description="Factor of the learning rate from one encoder block to the one before; 1: none."),
        )
    },
)

OptimizerSlot = Annotated[Any, OPTIMIZERS.slot()]
"""A keyword that holds an optimizer: its recipe form, or in Python the optimizer itself."""


def optimizer_config(value: ComponentConfig | Optimizer) -> ComponentConfig:
    """Return the recipe form of an optimizer.

    Raises:
        MageKitError: If the value is neither an optimizer nor its recipe form, or its class is not registered.
    """
    if isinstance(value, Optimizer):
        return OPTIMIZERS.parse(OPTIMIZERS.describe(value))
    if not isinstance(value, ComponentConfig):
        raise MageKitError(f"optimizer: {value!r}, must be an Optimizer or its recipe form")
    return value


def build_optimizer(config: ComponentConfig) -> MakeOptimizer:
    """Return what makes the optimizer that a recipe form describes, its layer-wise rates included."""
    return partial(OPTIMIZERS.build(config, NoWires()), layer_decay=config.get("layer_decay"))


def take_step(optimizer: torch.optim.Optimizer, skip: Tensor | None = None, divisor: Tensor | None = None) -> None:
    """Step by divided gradients, unless `skip` is above 0: parameters and state then stay as they are, bit for bit.

    Optimizers that can decide on the device (torch's fused ones, LARS here) are told by torch's own words for it,
    `found_inf` and `grad_scale`, so that nothing waits for the device; for the others the host decides.

    Args:
        optimizer: With gradients; they are divided in place.
        skip: 0-dim tensor on the parameters' device; None to step.
        divisor: 0-dim tensor there, at least 1, as of clipping; None for gradients as they are.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale = divisor  # type: ignore[attr-defined]  # torch reads this and the next
        optimizer.found_inf = None if skip is None else (skip > 0).float()  # type: ignore[attr-defined]  # as above
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]  # as above
    elif skip is None or not bool(skip):
        if divisor is not None:
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            torch._foreach_div_([local(value.grad) for value in parameters if value.grad is not None], divisor)
        optimizer.step()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; those that have a `rate` of their own take that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)
