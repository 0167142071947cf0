"""What every optimizer has to hold: those of the package, those written outside, and mutants that must fail."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.optimizers import set_lr

Names = dict[str, nn.Parameter]


def _names() -> Names:
    random = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(6, 5, generator=random)) for name in ("first", "second")}


def _play(names: Names, optimizer: torch.optim.Optimizer, steps: int, lr: float = 0.01, start: int = 0) -> list[Tensor]:
    for number in range(start, start + steps):
        random = torch.Generator().manual_seed(number)
        set_lr(optimizer, lr)
        for value in names.values():
            value.grad = value.detach() + 0.1 * torch.randn(value.shape, generator=random)
        optimizer.step()
    return [value.detach().clone() for value in names.values()]


def optimizer(part: mk.Optimizer) -> None:
    """It goes down, at the rate that it is told; its state is whole, and of the size that it states."""
    names = _names()
    start = [value.detach().clone() for value in names.values()]
    engine = part(names)
    assert all(torch.equal(*pair) for pair in zip(_play(names, engine, 1, lr=0.0), start, strict=True)), (
        "moves at rate 0"
    )
    engine = part(names)
    ends = _play(names, engine, 20)
    assert all(float(end.norm()) < float(begin.norm()) for end, begin in zip(ends, start, strict=True)), "goes uphill"
    _state(part, engine, names)
    _resume(part)
    _without_gradient(part)


def _state(part: mk.Optimizer, engine: torch.optim.Optimizer, names: Names) -> None:
    values = sum(value.numel() for value in names.values())
    state = [tensor for entry in engine.state.values() for tensor in entry.values() if isinstance(tensor, Tensor)]
    numbers = sum(tensor.numel() for tensor in state if tensor.ndim)
    assert numbers == part.state_values * values, f"keeps {numbers / values} numbers, states {part.state_values}"


def _resume(part: mk.Optimizer) -> None:
    whole = _names()
    expected = _play(whole, part(whole), 6)
    cut = _names()
    first = part(cut)
    _play(cut, first, 3)
    stored: dict[str, Any] = copy.deepcopy(first.state_dict())
    second = part(cut)
    second.load_state_dict(stored)
    again = _play(cut, second, 3, start=3)
    assert all(torch.equal(*pair) for pair in zip(again, expected, strict=True)), "its state is not all of it"


def _without_gradient(part: mk.Optimizer) -> None:
    names = _names()
    engine = part(names)
    before = names["second"].detach().clone()
    set_lr(engine, 0.01)
    names["first"].grad = torch.ones_like(names["first"])
    engine.step()
    assert torch.equal(names["second"], before), "moves what has no gradient"
