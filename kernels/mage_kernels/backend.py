"""Which implementation runs an operation: decided once, by running it, with the reason in words. Never at import.

"auto" takes Triton on a CUDA device where a tiny forward and backward pass runs at the real dtype and width and gives
what torch gives, and torch elsewhere; a backend that is asked for by name runs or is an error. `reference` is the plain
form that the others are tested against.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "triton", "torch", "reference"]
Probe = Callable[[str, torch.device, torch.dtype, int], list[Tensor]]
_ROUNDING = {torch.bfloat16: 3e-2, torch.float16: 3e-3}  # of a result's norm, between two orders of one sum

_choices: dict[tuple[str, str, torch.device, torch.dtype, int], Choice] = {}


@dataclass(frozen=True)
class Choice:
    """What runs an operation, and why.

    Args:
        operation: Its name.
        implementation: "triton", "torch" or "reference".
        reason: In words.
    """

    operation: str
    implementation: str
    reason: str


def choose(operation: str, backend: str, device: torch.device, dtype: torch.dtype, width: int, probe: Probe) -> Choice:
    """Return what runs an operation; decided at the first call for these arguments.

    Args:
        operation: Its name.
        backend: A `Backend`.
        device: Of the tensors.
        dtype: Of the tensors.
        width: Of the tensors' last axis, whose size decides a kernel's blocks.
        probe: Runs an implementation, forward and backward, on tiny tensors of the real dtype and width, and returns
            what comes out: results and gradients.

    Raises:
        ValueError: If the backend is unknown, or asked for by name and cannot run here.
    """
    if not isinstance(backend, str):
        raise ValueError(f"backend: {backend!r}, must be one of {', '.join(get_args(Backend))}")
    key = (operation, backend, device, dtype, width)
    if key not in _choices:
        choice = _decide(operation, backend, device, dtype, width, probe)
        if "OutOfMemory" in choice.reason:  # a bad moment, not a fact of the machine
            return choice
        _choices[key] = choice
    return _choices[key]


def _decide(operation: str, backend: str, device: torch.device, dtype: torch.dtype, width: int, probe: Probe) -> Choice:
    if backend not in get_args(Backend):
        raise ValueError(f"backend: '{backend}', must be one of {', '.join(get_args(Backend))}")
    if backend in ("torch", "reference"):
        return Choice(operation, backend, f"backend '{backend}' was asked for")
    if backend == "auto" and device.type != "cuda":
        return Choice(operation, "torch", f"the Triton kernels are for CUDA devices, this is {device.type}")
    problem = triton_problem(device) or _failure(probe, device, dtype, width)
    if problem is None:
        why = "runs here" if backend == "auto" else "backend 'triton' was asked for"
        return Choice(operation, "triton", why)
    if backend == "triton":
        raise ValueError(f"backend: 'triton', cannot run {operation} on {device}: {problem}")
    return Choice(operation, "torch", problem)


def triton_problem(device: torch.device) -> str | None:
    """Return why Triton cannot run on a device, or None if it can (on a CPU: under its interpreter, for tests)."""
    try:
        import triton  # noqa: F401  (its presence is the question)
    except Exception as error:  # a broken installation may raise anything
        return f"triton cannot be imported ({error})"
    if device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"Triton does not run on {device.type}"


def _failure(probe: Probe, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """Run the probe, and compare with torch; return what went wrong, in one line."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            found, owed = (probe(name, device, dtype, width) for name in ("triton", "torch"))
        apart = max((_distance(*pair) for pair in zip(found, owed, strict=True)), default=0.0)
    except Exception as error:  # a compiler's errors are of every kind
        first = (str(error).splitlines() or [""])[0][:200]
        return f"the kernel failed at {dtype}, width {width}: {type(error).__name__}: {first}"
    if apart <= _ROUNDING.get(dtype, 1e-4):
        return None
    return f"the kernel is wrong at {dtype}, width {width}: {apart:.1g} of the norm from what torch gives"


def _distance(found: Tensor, owed: Tensor) -> float:
    """Return how far one result lies from the other, as a share of its norm; infinite where it is no number."""
    exact = owed.detach().double()
    distance = float((found.detach().double() - exact).norm() / exact.norm().clamp_min(1e-9))
    return distance if distance == distance else float("inf")


def ramp(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a leaf of numbers in [-1, 1] that differ, for probes; it takes gradients."""
    count = math.prod(shape)
    return torch.arange(count, device=device).mul(0.37).cos().reshape(tuple(shape)).to(dtype).requires_grad_()
