"""The norm of gradients, and what they are divided by so that it stays below a limit; nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from mage_kit.base.processes import whole


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the global norm of gradients, 0-dim float32 on their device; not finite if a gradient is not.

    Args:
        parameters: The same in all processes, or sharded over them, which then all call this.
    """
    norm = nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
    return whole(norm).float()  # as fused optimizers read it


def clip_divisor(norm: Tensor, limit: float | None) -> Tensor | None:
    """Return what gradients of a norm are divided by, at least 1, to have at most the norm `limit`; None for no limit.

    Args:
        norm: 0-dim; where it is not finite, neither is the result, and the step is left out.
        limit: Above 0.
    """
    return None if limit is None else ((norm + 1e-6) / limit).clamp(min=1.0)
