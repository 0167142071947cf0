"""What the machine can do at best, measured in the process that compares with it: matrix products and copies."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Rate of a large square matrix product in FLOP/s: the best within a second."""
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: left @ right, device)


def copy_ceiling(device: torch.device) -> float:
    """Rate of a large copy in bytes/s, read and written counted: the best within a second."""
    source = torch.zeros((1 << 30) if device.type == "cuda" else (1 << 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Best of as many as fit into a second, after a few unmeasured ones: a busy moment must not become the ceiling."""
    for _ in range(3):
        run()
    best, until = float("inf"), time.perf_counter() + 1.0
    while time.perf_counter() < until:
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return best
