"""What a machine computes in, decided once and said in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from mage_kit.base.doors import is_recording

Precision = Literal["float32", "bfloat16"]

LARGE = 10_000_000  # parameters


@dataclass(frozen=True)
class Decision:
    """One choice and why, in words."""

    value: str
    reason: str


def choose_precision(precision: str, device: torch.device, parameters: int) -> Decision:
    """Return "float32" or "bfloat16" by a rule: a clock could choose another in a second run of the same recipe.

    Args:
        precision: "auto", or a precision that is taken as it is.
        device: Where the model is.
        parameters: Of all that computes in it. On a CPU products of small matrices are no faster in bfloat16, and
            converting costs more than they save.
    """
    if precision != "auto":
        return Decision(precision, f"precision '{precision}' was asked for")
    if not bfloat16_products(device):
        return Decision("float32", f"by rule: this {device.type} multiplies no bfloat16")
    if device.type == "cpu" and parameters < LARGE:
        return Decision("float32", f"by rule: {parameters / 1e6:.1f}M parameters, bfloat16 pays from {LARGE / 1e6:g}M")
    return Decision("bfloat16", f"by rule: this {device.type} multiplies bfloat16")


def bfloat16_products(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16 products: a fact of the machine, the same in every run."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in features)


def full_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Inside, float32 convolutions keep all of float32 on CUDA too, where TF32, 10 bits of fraction, is the default.

    Tokens are whole numbers: a rounding that moves a feature across a border gives another one, and a cache made on a
    GPU would not be that of a CPU. The flag is the process's; while a graph is recorded it stays as it is.

    Args:
        device: Where the convolutions run.
    """
    return contextlib.nullcontext() if is_recording() or device.type != "cuda" else _without_tf32()


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
