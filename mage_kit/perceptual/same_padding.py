"""TensorFlow's "SAME" padding, which the packages' networks were trained with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Put zeros around x (B, K, H, W) so that a side of n gives ceil(n / stride); the odd one goes to the end."""
    pads: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)
