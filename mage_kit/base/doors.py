"""What comes in through a public call, looked at: pixels between 0 and 1, ids that name codes, finite numbers.

Looking reads values back, which a GPU waits for. A loop whose values come from this program itself enters `trusted`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

ROUNDING = 0.01  # how far beyond 0 and 1 pixels may lie: half precision and resizing explain that
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextlib.contextmanager
def trusted() -> Iterator[None]:
    """Look at nothing while this lasts; not to be held over a `yield` to somebody else."""
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def check_tensor(name: str, value: object) -> None:
    """Make sure that an argument is a tensor.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, Tensor):
        hint = "; torch.from_numpy makes one" if type(value).__module__ == "numpy" else ""
        raise ValueError(f"{name}: a {type(value).__name__}, must be a tensor{hint}")


def check_masked(name: str, masked_BL: object, shape: tuple[int, ...]) -> None:
    """Make sure that an argument says of each token whether it is masked.

    Args:
        name: Of the argument.
        masked_BL: What was given.
        shape: (B, L).

    Raises:
        ValueError: If it is no bool tensor of this shape.
    """
    check_tensor(name, masked_BL)
    assert isinstance(masked_BL, Tensor)
    if is_recording():
        return
    if masked_BL.dtype != torch.bool or tuple(masked_BL.shape) != shape:
        form = f"{tuple(masked_BL.shape)} {str(masked_BL.dtype).removeprefix('torch.')}"
        raise ValueError(f"{name}: {form}, must be bool {shape}, True where a token is masked")


def check_pixels(name: str, images_BCHW: Tensor) -> None:
    """Make sure that images are what they are taken for.

    Raises:
        ValueError: If a value is not finite, or lies outside [0, 1] by more than rounding explains.
    """
    if not _looks(images_BCHW):
        return
    least, most = _range(images_BCHW)
    if least >= -ROUNDING and most <= 1 + ROUNDING:
        return
    words = f"{name}: values from {least:g} to {most:g}, must lie in [0, 1]"
    if not math.isfinite(least + most):
        raise ValueError(f"{name}: holds values that are not finite, must lie in [0, 1]")
    raise ValueError(f"{words}; {'divide bytes by 255' if most > 2 else 'undo the normalisation, as (x + 1) / 2'}")


def check_tokens(name: str, tokens: Tensor, shape: tuple[int, ...], codes: int | None, masked: Tensor | None) -> None:
    """Make sure that tokens are of a form, that ids name codes, and that values are finite.

    Args:
        name: Of the argument.
        tokens: Ids (B, L) or (B, L, F) int64, or floating values (B, L, W).
        shape: That one image's must have.
        codes: How many there are; None for values.
        masked: bool (B, L), where tokens are not read; None if all are.

    Raises:
        ValueError: If they are not.
    """
    check_tensor(name, tokens)
    if is_recording():
        return
    typed = tokens.dtype == torch.int64 if codes is not None else tokens.is_floating_point()
    if tokens.ndim != 1 + len(shape) or tuple(tokens.shape[1:]) != shape or not typed:
        kind = "int64 ids" if codes is not None else "floating values"
        rule = f"must be {kind} (B, {', '.join(map(str, shape))})"
        raise ValueError(f"{name}: {tuple(tokens.shape)} {str(tokens.dtype).removeprefix('torch.')}, {rule}")
    if not _looks(tokens):
        return
    if masked is not None:
        hidden = masked.reshape(*masked.shape, *(1,) * (tokens.ndim - 2))
        tokens = torch.where(hidden, tokens.new_zeros(()), tokens)
    least, most = _range(tokens)
    if codes is None and not math.isfinite(least + most):
        raise ValueError(f"{name}: holds values that are not finite")
    if codes is not None and not (least >= 0 and most < codes):
        raise ValueError(f"{name}: ids from {least:.0f} to {most:.0f}, must be from 0 to {codes - 1}")


def _looks(tensor: Tensor) -> bool:
    """Whether values may be read: not in a loop of our own, of nothing, while a graph is recorded, or of stand-ins."""
    if is_recording() or _trusted.get() or not tensor.numel() or tensor.device.type == "meta":
        return False
    return type(tensor) in (Tensor, nn.Parameter)


def is_recording() -> bool:
    """Whether a graph is recorded (torch.compile, torch.export, tracing): what is read now would be part of it."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def is_exporting() -> bool:
    """Whether a graph is recorded that also serves other sizes; torch.compile records another graph for them."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def _range(tensor: Tensor) -> tuple[float, float]:
    least, most = torch.aminmax(tensor.detach())
    return float(least), float(most)
