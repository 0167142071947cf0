"""AdamW (Loshchilov and Hutter, 2019), with the published rule of what decays."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from mage_kit.base.fields import NonNegativeFloat
from mage_kit.optimizers.base import OPTIMIZERS, Optimizer

_Decay = Annotated[float, Field(ge=0, le=1)]


@OPTIMIZERS.register("adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay, eps 1e-8; matrices, embeddings and positions decay, 1-D tensors and biases not.

    Args:
        betas: Decays of the means of gradient and squared gradient.
        weight_decay: Decoupled: each step takes this share, times the learning rate, off a weight.
    """

    def __init__(self, *, betas: tuple[_Decay, _Decay] = (0.9, 0.95), weight_decay: NonNegativeFloat = 0.05) -> None:
        self.betas, self.weight_decay = betas, weight_decay

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        """Return torch's AdamW, one kernel a step."""
        groups = [{**group, "weight_decay": self.weight_decay if group["decays"] else 0.0} for group in groups]
        return torch.optim.AdamW(groups, lr=0.0, betas=self.betas, eps=1e-8, fused=True)
