"""A model made ready to generate: precision, attention form, packed weights; as it was before when the work is done."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Literal

import torch
from mage_kernels.attention_choice import generation_form
from mage_kernels.autocasting import autocast_dtype
from mage_kernels.packing import PackedLinear, packing_problem

from mage_kit.base.precision import Decision, bfloat16_products
from mage_kit.layers.blocks import Block, SelfAttention
from mage_kit.layers.linear_layers import is_hooked, is_quantized, packable_layers, packed_weights, set_packed
from mage_kit.models.mage import Mage

Asked = Literal["auto", "float32", "bfloat16"]

_WIDE = 384  # encoder width from which bfloat16 products pay; narrow models keep the digits
_lock = threading.Lock()
_users: weakref.WeakKeyDictionary[Mage, tuple[int, bool]] = weakref.WeakKeyDictionary()  # calls, mode before them


def generation_precision(precision: str | None, model: Mage) -> Decision:
    """Return what a model generates in: "float32", "bfloat16", or "surrounding" for what is on around the call.

    "auto" follows the machine and the model's width, not a measurement: the same seed must give the same picture.

    Args:
        precision: An `Asked`, or None.
        model: Where it is decides.

    Raises:
        ValueError: If it is unknown.
    """
    if precision is None:
        return Decision("surrounding", "whatever the caller's autocast says")
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision: '{precision}', must be auto, float32 or bfloat16")
    if is_quantized(model):
        if precision == "bfloat16":
            raise ValueError("precision: 'bfloat16', must be auto or float32: quantized linear layers read no other")
        return Decision("float32", "quantized linear layers read no other")
    if precision != "auto":
        return Decision(precision, f"precision '{precision}' was asked for")
    if next(model.parameters()).dtype != torch.float32:
        return Decision("surrounding", "the model's own dtype")
    if model.encoder.dim < _WIDE:
        return Decision("float32", f"an encoder narrower than {_WIDE} gains nothing")
    has = bfloat16_products(model.device)
    return Decision("bfloat16" if has else "float32", f"{model.device} {'has' if has else 'has no'} bfloat16 products")


@contextlib.contextmanager
def prepare_to_generate(model: Mage, images: int, precision: str | None = None) -> Iterator[Decision]:
    """Put a model into evaluation mode and the precision wanted, with the forms that run fastest, for the while.

    Calls may overlap in several threads: the last one to end puts the model back. What is prepared serves threads that
    compute in bfloat16 without gradients, no others. On a CPU the tokenizer stays channels-last.

    Args:
        model: The model.
        images: Batch size, for which weights are laid out.
        precision: See `generation_precision`.
    """
    decision = generation_precision(precision, model)
    device = model.device.type
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if decision.value != "surrounding":
            stack.enter_context(torch.autocast(device, torch.bfloat16, enabled=decision.value == "bfloat16"))
        stack.enter_context(_in_use(model))
        if device == "cpu" and autocast_dtype(device) == torch.bfloat16:
            with _lock:
                _prepare(model, images)
        yield decision


@contextlib.contextmanager
def _in_use(model: Mage) -> Iterator[None]:
    """Evaluation mode while anybody generates; the first to come remembers the mode, the last to go restores it."""
    with _lock:
        count, training = _users.get(model, (0, model.training))
        _users[model] = count + 1, training
        model.eval()
    try:
        yield
    finally:
        with _lock:
            count, training = _users[model]
            _users[model] = count - 1, training
            if count == 1:
                del _users[model]
                _restore(model, training)


def _prepare(model: Mage, images: int) -> None:
    """Choose the attention form by a rule, not by the clock, for the same reason as the precision; pack the weights."""
    form = generation_form(model.device, torch.bfloat16).implementation
    attentions = [module for module in model.modules() if isinstance(module, SelfAttention)]
    model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no overload for this
    for attention in attentions:
        free = model.attention == "auto" and model.backend != "reference" and attention.inference == "sdpa"
        attention.generating = form if free else None
    plain = model.backend in ("torch", "reference") or packing_problem(model.device) is not None
    if plain or any(isinstance(module, Block) and module._compiled_call_impl for module in model.modules()):
        return
    for layer in packable_layers(model):
        if packed_weights(layer) is None and not is_hooked(layer):
            set_packed(layer, PackedLinear(layer.weight, layer.bias, images * (1 + model.spec.grid.size)))


def _restore(model: Mage, training: bool) -> None:
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.generating = None
    for layer in packable_layers(model):
        set_packed(layer, None)
    model.train(training)
