"""What launches share: the tensors' own device, block sizes, warps."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

TILE, WIDTH_BLOCK = 16, 128  # images or positions, and slice of the width, that a kernel which walks them takes at once


def on(tensor: Tensor) -> Any:
    """Launches go to the current device, wherever the tensors are: make theirs the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def block_of(width: int) -> int:
    """Return the power of two that covers a width."""
    return int(triton.next_power_of_2(width))


def warps_of(block: int) -> int:
    """Return the warps of a program on a block."""
    return 4 if block <= 1024 else 8 if block <= 4096 else 16
