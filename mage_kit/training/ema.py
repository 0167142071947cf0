"""A running mean of the weights, warmed up, so that it soon forgets the random start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mage_kit.base.processes import local


class WeightMean:
    """The exponential moving average of parameters; each process holds the mean of what it holds.

    Args:
        parameters: By name.
        decay: Of the mean, once warmed up.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = dict(parameters)
        self.means = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int, skip: Tensor) -> None:
        """Take in the weights after a step (from 1): the decay is min(decay, (1 + step) / (10 + step)).

        Args:
            step: Its number.
            skip: 0-dim float32 on the weights' device: above 0 the mean stays as it is.
        """
        share = (1 - min(self.decay, (1 + step) / (10 + step))) * (skip <= 0).float()
        means = [local(self.means[name]) for name in self._parameters]
        weights = [local(parameter) for parameter in self._parameters.values()]
        torch._foreach_lerp_(means, weights, [share] * len(means))  # on the device: by 0 a mean moves nowhere
