"""A model made ready to generate: precision, attention form, packed weights; as it was before when the work is done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

import torch
from mage_kernels import choose_attention
from mage_kernels.packed import PackedLinear, packing_problem

from mage_kit.blocks import Linear, SelfAttention, evaluating
from mage_kit.model import Mage
from mage_kit.precision import Decision, bfloat16_products

Asked = Literal["auto", "float32", "bfloat16"]

_WIDE = 384  # encoder width from which bfloat16 products pay; narrow models keep the digits
_lock = threading.Lock()
_users: dict[int, int] = {}  # model -> calls that generate with it now


def generation_precision(asked: str | None, model: Mage) -> Decision:
    """Return what a model generates in: "float32", "bfloat16", or "surrounding" for what is on around the call.

    "auto" follows the machine and the model's width, not a measurement: the same seed must give the same picture.

    Args:
        asked: An `Asked`, or None.
        model: Where it is decides.

    Raises:
        ValueError: If it is unknown.
    """
    if asked is None:
        return Decision("surrounding", "whatever the caller's autocast says")
    if asked not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision: '{asked}', must be auto, float32 or bfloat16")
    if asked != "auto":
        return Decision(asked, f"precision '{asked}' was asked for")
    if next(model.parameters()).dtype != torch.float32:
        return Decision("surrounding", "the model's own dtype")
    if model.encoder.dim < _WIDE:
        return Decision("float32", f"an encoder narrower than {_WIDE} gains nothing")
    has = bfloat16_products(model.device)
    return Decision("bfloat16" if has else "float32", f"{model.device} {'has' if has else 'has no'} bfloat16 products")


@contextlib.contextmanager
def prepared(model: Mage, images: int, precision: str | None = None) -> Iterator[Decision]:
    """Put a model into evaluation mode and the precision wanted, with the forms that run fastest, for the while.

    Calls may overlap in several threads: the last one to end puts the model back.

    Args:
        model: The model.
        images: Batch size, which the measurements use.
        precision: See `generation_precision`.
    """
    decision = generation_precision(precision, model)
    device = model.device.type
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        if decision.value != "surrounding":
            stack.enter_context(torch.autocast(device, torch.bfloat16, enabled=decision.value == "bfloat16"))
        if device == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16:
            stack.enter_context(_fast_on_cpu(model, images))
        yield decision


@contextlib.contextmanager
def _fast_on_cpu(model: Mage, images: int) -> Iterator[None]:
    with _lock:
        _users[id(model)] = _users.get(id(model), 0) + 1
        if _users[id(model)] == 1:
            model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            _choose_attention(model, images)
            _pack(model, images * (1 + model.spec.grid.size))
    try:
        yield
    finally:
        with _lock:
            _users[id(model)] -= 1
            if not _users[id(model)]:
                del _users[id(model)]
                for module in model.modules():
                    if isinstance(module, Linear):
                        module.packed = None
                    elif isinstance(module, SelfAttention):
                        module.generating = None


def _choose_attention(model: Mage, images: int) -> None:
    """Give each shape of attention the form that runs forward fastest."""
    chosen = {}
    for module in model.modules():
        if isinstance(module, SelfAttention):
            head = module.qkv.in_features // module.heads
            shape = (images, module.heads, 1 + model.spec.grid.size, head)
            if shape not in chosen:
                chosen[shape] = choose_attention(
                    model.backend, model.device, torch.bfloat16, shape, 0.0, gradients=False
                ).implementation
            module.generating = chosen[shape]


def _pack(model: Mage, rows: int) -> None:
    if model.backend in ("torch", "reference") or packing_problem(model.device) is not None:
        return
    for module in model.modules():
        if isinstance(module, Linear):
            module.packed = PackedLinear(module.weight, module.bias, rows)
