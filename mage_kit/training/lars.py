"""LARS (You et al., 2017), as linear probes of masked image models use it; paper: supplement, Table 11."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Momentum, with a step for each tensor of more than one dimension that is proportional to the tensor's norm.

    With g the gradient plus `weight_decay` w: q = trust |w| / |g| where both norms are above 0 and the tensor has more
    than one dimension, else 1 and no decay; m = momentum m + q g; w = w - lr m.

    Args:
        parameters: To be trained.
        lr: Learning rate.
        weight_decay: Coupled, of tensors of more than one dimension.
        momentum: Of the mean m.
        trust: Trust coefficient.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # returns no loss
        """Change the parameters by their gradients."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group)

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if parameter.ndim > 1:
            gradient = gradient + group["weight_decay"] * parameter
            norms = parameter.norm(), gradient.norm()
            ratio = group["trust"] * norms[0] / norms[1]
            # On the device: whether a norm is 0 is nothing to wait for.
            gradient = gradient * torch.where((norms[0] > 0) & (norms[1] > 0), ratio, torch.ones_like(ratio))
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        parameter.sub_(group["lr"] * state["momentum"])
