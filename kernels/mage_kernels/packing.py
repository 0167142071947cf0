"""Linear layers whose weights were put into oneDNN's own bfloat16 layout, for many products without gradients on a CPU.

A plain product casts and reorders its weights in each call; packed ones are ready, and GELU runs in the same pass.
The operators are those that torch's own compiler emits for frozen models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PackedLinear:
    """x W^T + b in bfloat16, optionally followed by the exact GELU.

    Args:
        weight: (outputs, inputs), on a CPU.
        bias: (outputs,), or None.
        rows: Rows of the usual input: the layout is chosen for it, others work.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        self._outputs = len(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(torch.bfloat16), rows)
        self._bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def __call__(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Return bfloat16 (..., outputs) of a floating x (..., inputs)."""
        after: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), self._weight, self._bias, *after)
        return out


def packing_problem(device: torch.device) -> str | None:
    """Return why packed weights cannot be used on a device, or None: found by using them."""
    if device.type != "cpu":
        return f"packed weights are for CPUs, this is {device.type}"
    x, weight, bias = (torch.linspace(-1, 1, size).view(shape) for size, shape in _PROBE)
    try:
        result = PackedLinear(weight, bias, 4)(x, gelu=True).float()
    except Exception as error:  # the operators are torch's own business: whatever they say, plain layers serve
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    plain = F.gelu(F.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())).float()
    return None if torch.allclose(result, plain, atol=0.1, rtol=0.05) else "its results differ from a plain product's"


_PROBE = ((64, (4, 16)), (128, (8, 16)), (8, (8,)))
