"""Linear layers of blocks, decoders and heads: torch's own class, so that what torch offers for it, as
`quantize_dynamic`, replaces them; called by a function, so that GELU and packed weights need no class of ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mage_kernels.autocasting import autocast_dtype
from mage_kernels.packing import PackedLinear
from torch import Tensor, nn

_PACKED = "packed"  # an attribute of the layer: weights packed for the while, or None


def packable(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer whose weights generation may pack; its owner calls it through `linear`."""
    layer = nn.Linear(inputs, outputs)
    layer.__dict__[_PACKED] = None
    return layer


def linear(layer: nn.Module, x: Tensor, gelu: bool = False) -> Tensor:
    """Return a layer's product, optionally followed by the exact GELU.

    Args:
        layer: One that `packable` returned, or what took its place.
        x: (..., inputs).
        gelu: Whether GELU follows.

    Returns:
        (..., outputs).
    """
    packed: PackedLinear | None = getattr(layer, _PACKED, None)
    if packed is not None and is_lowered(x) and not is_hooked(layer):
        return packed(x, gelu)
    out: Tensor = layer(x)
    return F.gelu(out) if gelu else out


def is_hooked(layer: nn.Module) -> bool:
    """Whether somebody hooked a layer's forward call, or that of all modules: packed weights would pass the hook by."""
    every = torch.nn.modules.module
    own = layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__
    return bool(own or every._global_forward_hooks or every._global_forward_pre_hooks)


def is_lowered(x: Tensor) -> bool:
    """Whether this thread computes x without gradients in bfloat16: what was prepared for that serves nobody else."""
    return not torch.is_grad_enabled() and autocast_dtype(x.device.type) == torch.bfloat16


def packable_layers(module: nn.Module) -> list[nn.Linear]:
    """Return the layers of a module whose weights may be packed."""
    return [part for part in module.modules() if isinstance(part, nn.Linear) and _PACKED in part.__dict__]


def packed_weights(layer: nn.Module) -> PackedLinear | None:
    """Return a layer's packed weights; None where there are none."""
    return getattr(layer, _PACKED, None)


def set_packed(layer: nn.Linear, packed: PackedLinear | None) -> None:
    """Give a layer packed weights, or take them away."""
    layer.__dict__[_PACKED] = packed


def is_quantized(module: nn.Module) -> bool:
    """Whether torch replaced linear layers of a module by quantized ones, whose weights are no tensors of its state."""
    return any(type(part).__module__.startswith("torch.ao.nn.quantized") for part in module.modules())
