"""Batch norm over the images of all processes, for features that need no gradient.

Legend: B images of this process, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mage_kit.base.processes import add_up


class BatchNorm(nn.Module):
    """Standardise each feature by the batch's mean and variance, in evaluation by their running means; nothing is
    trained, and no gradient goes back.

    Args:
        dim: Features, D.
        eps: Added to the variance.
        momentum: Of the running means.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, eps: float = 1e-6, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    @torch.no_grad()
    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, D) -> (B, D) float32."""
        x_BD = x_BD.float()
        mean, variance = self._of(x_BD) if self.training else (self.mean, self.variance)
        return (x_BD - mean) * (variance + self.eps).rsqrt()

    def _of(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the batch's mean and variance, all processes' images, and move the running means towards them."""
        count = add_up(torch.full((1,), float(len(x_BD)), device=x_BD.device))
        mean = add_up(x_BD.sum(dim=0)) / count
        variance = add_up((x_BD - mean).square().sum(dim=0)) / count
        self.mean.lerp_(mean, self.momentum)
        self.variance.lerp_(variance * count / (count - 1).clamp_min(1), self.momentum)
        return mean, variance
