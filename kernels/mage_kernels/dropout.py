"""Dropout with cheap masks: on a CPU one 64-bit draw serves four values, where torch draws one a value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero values with a probability and scale the rest by its inverse complement.

    On a CPU the probability is rounded to a multiple of 2^-16 and the scale follows the rounded value, so that the mean
    is kept exactly; elsewhere torch's own dropout runs. Draws come from torch's global generator.

    Args:
        x: Any floating tensor.
        probability: In [0, 1).
    """
    threshold = round(probability * _LEVELS)
    if x.device.type != "cpu" or threshold == 0:
        return F.dropout(x, probability)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    bits = words.random_(-(1 << 63), None).view(torch.int16)[: x.numel()].view(x.shape)
    keep = (bits >= threshold - _LEVELS // 2).to(x.dtype)
    # The scale stays a Python number: rounded to bfloat16 it would move the mean by a fifth of a percent.
    return (x * keep) * (_LEVELS / (_LEVELS - threshold))
