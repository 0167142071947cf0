"""LARS (You et al., 2017), as linear probes of masked image models use it; paper: supplement, Table 11."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mage_kit.base.fields import NonNegativeFloat, PositiveFloat
from mage_kit.optimizers.base import OPTIMIZERS, Optimizer


@OPTIMIZERS.register("lars")
class LARS(Optimizer):
    """Momentum, with a step for each tensor of more than one dimension that is proportional to the tensor's norm.

    With g the gradient plus `weight_decay` w: q = trust |w| / |g| where both norms are above 0 and the tensor has more
    than one dimension, else 1 and no decay; m = momentum m + q g; w = w - lr m.

    Args:
        weight_decay: Coupled, of tensors of more than one dimension.
        momentum: Of the mean m.
        trust: Trust coefficient.
    """

    state_values: ClassVar[float] = 1.0

    def __init__(
        self,
        *,
        weight_decay: NonNegativeFloat = 0.0,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        trust: PositiveFloat = 0.001,
    ) -> None:
        self.weight_decay, self.momentum, self.trust = weight_decay, momentum, trust

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return an optimizer of its own: torch has none."""
        return TrustRatios(groups, {"weight_decay": self.weight_decay, "momentum": self.momentum, "trust": self.trust})


class TrustRatios(torch.optim.Optimizer):
    """The steps of `LARS`.

    Args:
        groups: Of parameters.
        settings: "weight_decay", "momentum", "trust".
    """

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, float]) -> None:
        super().__init__(groups, {"lr": 0.0, **settings})
        self._step_supports_amp_scaling = True  # torch's word for an optimizer that obeys `found_inf`, see `take_step`

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """Change the parameters by their gradients."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group)

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        divisor = getattr(self, "grad_scale", None)
        if divisor is not None:
            gradient = gradient / divisor
        if parameter.ndim > 1:
            gradient = gradient + group["weight_decay"] * parameter
            norms = parameter.norm(), gradient.norm()
            ratio = group["trust"] * norms[0] / norms[1]
            # On the device: whether a norm is 0 is nothing to wait for.
            gradient = gradient * torch.where((norms[0] > 0) & (norms[1] > 0), ratio, torch.ones_like(ratio))
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = group["momentum"] * state["momentum"] + gradient
        moved = parameter - group["lr"] * momentum
        skip = getattr(self, "found_inf", None)
        if skip is not None:  # chosen, not multiplied: what is skipped may not be a number
            momentum = torch.where(skip > 0, state["momentum"], momentum)
            moved = torch.where(skip > 0, parameter, moved)
        state["momentum"].copy_(momentum)
        parameter.copy_(moved)
