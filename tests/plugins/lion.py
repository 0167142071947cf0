"""An optimizer written outside of mage_kit: the sign of a mean of gradients (Chen et al., 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

import mage_kit as mk


@mk.OPTIMIZERS.register("lion")
class Lion(mk.Optimizer):
    """Lion: each weight moves by the learning rate, in the direction of a mean of its gradients.

    Args:
        beta: Decay of the mean of gradients.
        mix: Share of that mean in the step's direction, the rest being the gradient's.
        weight_decay: Decoupled.
    """

    state_values: ClassVar[float] = 1.0

    def __init__(
        self, *, beta: mk.Probability = 0.99, mix: mk.Probability = 0.9, weight_decay: mk.NonNegativeFloat = 0.0
    ) -> None:
        self.beta, self.mix, self.weight_decay = beta, mix, weight_decay

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        groups = [{**group, "weight_decay": self.weight_decay if group["decays"] else 0.0} for group in groups]
        return Signs(groups, {"lr": 0.0, "beta": self.beta, "mix": self.mix})


class Signs(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # returns no loss
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                direction = mean.lerp(parameter.grad, 1 - group["mix"]).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
                mean.lerp_(parameter.grad, 1 - group["beta"])
