"""What a machine computes in, decided once and said in words."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

_GAIN = 1.1  # bfloat16 has to be worth the loss of digits
_REPEATS = 6


@dataclass(frozen=True)
class Decision:
    """One choice and why, in words."""

    value: str
    reason: str


def choose_precision(precision: str, device: torch.device, run: Callable[[], None]) -> Decision:
    """Return "float32" or "bfloat16" by running a forward and backward pass in both.

    Args:
        precision: "auto", or a precision that is taken as it is.
        device: Where the model is.
        run: One forward and backward pass.
    """
    if precision != "auto":
        return Decision(precision, f"precision '{precision}' was asked for")

    def measure(fast: bool) -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

    # In turn, and the best of several: a machine that stalls now and then must not decide.
    pairs = [(measure(False), measure(True)) for _ in range(_REPEATS)]
    ratio = min(slow for slow, _ in pairs) / min(fast for _, fast in pairs)
    value = "bfloat16" if ratio > _GAIN else "float32"
    return Decision(value, f"bfloat16 ran {ratio:.2f}x as fast as float32 on {device.type}")


def bfloat16_products(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16 products: a fact of the machine, the same in every run."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in features)
