"""Where a number stopped being one: which module, in a step that is run again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.base.processes import local


def name_the_module(
    roots: Mapping[str, nn.Module], parameters: Mapping[str, nn.Parameter], run: Callable[[], None]
) -> str:
    """Repeat a step and say in words where the first non-finite number came up.

    Args:
        roots: Whose modules are watched, each by what stands before their names.
        parameters: Whose gradients are looked at when all outputs are finite.
        run: The step, forward and backward, from the same random numbers.
    """
    first: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and not all(bool(tensor.isfinite().all()) for tensor in _floats(output)):
                first.append(name)

        return look

    leaves = [
        (before + name, part)
        for before, root in roots.items()
        for name, part in root.named_modules()
        if not any(True for _ in part.children())
    ]
    handles = [part.register_forward_hook(watch(name)) for name, part in leaves]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if first:
        return f"first in the output of '{first[0]}'"
    bad = [name for name, tensor in parameters.items() if tensor.grad is not None and not _finite(tensor.grad)]
    if bad:  # backward runs from the loss, so the last one in order was reached first
        return f"first in the gradient of '{bad[-1]}' ({len(bad)} of {len(parameters)} gradients)"
    largest = max(parameters, key=lambda name: _size(parameters[name]))
    if not math.isfinite(_size(parameters[largest]) ** 2):
        return f"in the norm of all gradients: that of '{largest}' is {_size(parameters[largest]):.1e}"
    return "in another process, or not seen again when the step was repeated"


def all_finite(tensors: Iterator[Tensor]) -> bool:
    """Return whether every number of this process's parts is finite."""
    flags = [local(tensor).isfinite().all() for tensor in tensors]
    return bool(torch.stack(flags).all()) if flags else True


def _size(parameter: nn.Parameter) -> float:
    """Largest value of this process's gradient, in float32 as the norm is."""
    tensor = parameter.grad
    if tensor is None or not tensor.numel():
        return 0.0
    return float(torch.tensor(float(local(tensor).abs().max()) if local(tensor).numel() else 0.0))


def _finite(tensor: Tensor) -> bool:
    return bool(local(tensor).isfinite().all())


def _floats(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor) and output.is_floating_point():
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _floats(part)
