"""A GPU runs the programs of a kernel in any order; the interpreter, which goes by their numbers, would hide a race."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.test_triton import DEVICE, operator_calls

pytestmark = pytest.mark.skipif(DEVICE.type == "cuda", reason="the interpreter is off where there is a GPU")


def results(number: int) -> list[Tensor]:
    """What one operator gives, forward and backward; what it keeps for the gradient is seen in that."""
    torch.manual_seed(0)
    operator, given = operator_calls()[number]
    leaves = [part for part in given if isinstance(part, Tensor) and part.requires_grad]
    found = operator(*given)
    outputs = [found] if isinstance(found, Tensor) else list(found)
    if not leaves:
        return outputs
    weight = torch.arange(outputs[0].numel(), dtype=torch.float32).reshape(outputs[0].shape).cos()
    return [outputs[0].detach(), *torch.autograd.grad((outputs[0] * weight).sum(), leaves)]


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("order", ["backwards", "shuffled"])
def test_any_order_of_programs_gives_the_same(number: int, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    builder: Any = pytest.importorskip("triton.runtime.interpreter").interpreter_builder
    in_order, place, orders = results(number), builder.set_grid_idx, {}
    moved = []

    def shuffled(x: int, y: int, z: int) -> None:
        width, height, depth = builder.grid_dim
        count = width * height * depth
        if (x, y, z) == (0, 0, 0):
            orders["now"] = list(reversed(range(count)))
            if order == "shuffled":
                random.Random(count).shuffle(orders["now"])
        other = orders["now"][(x * height + y) * depth + z]
        moved.append(other != (x * height + y) * depth + z)
        place(other // (height * depth), other // depth % height, other % depth)

    monkeypatch.setattr(builder, "set_grid_idx", shuffled)
    for ours, theirs in zip(results(number), in_order, strict=True):
        # Atomic sums add in the order of the programs: the last digits may differ, and nothing else may.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert any(moved) or order == "shuffled", "two programs may be left where they were"
