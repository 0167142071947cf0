"""The norm of gradients, and their clipping by it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from mage_kit.base.processes import local, whole


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
