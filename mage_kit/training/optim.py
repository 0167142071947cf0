"""AdamW with the published decay rule, the norm of gradients, and the learning rate of groups."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from mage_kit.base.processes import local, whole


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Return AdamW (eps 1e-8) with decay on matrices, embeddings and positions, none on 1-D tensors and biases."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in parameters:
        (plain if parameter.ndim <= 1 or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas, eps=1e-8, fused=True)


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> float:
    """Scale gradients down to a global norm where they exceed it; waits for the device, once.

    Args:
        parameters: With gradients, the same in all processes or sharded over them.
        limit: Largest norm; None for no clipping.

    Returns:
        The norm before; not finite if a gradient is not, and then nothing is scaled.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(whole(nn.utils.get_total_norm(gradients)))
    if limit is not None and math.isfinite(norm) and norm > limit:
        torch._foreach_mul_([local(gradient) for gradient in gradients], limit / (norm + 1e-6))
    return norm


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups; those that have a `rate` of their own take that share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)
