"""A step that is skipped on the device leaves parameters and state as they were, whatever the gradients hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mage_kit as mk
from mage_kit.optimizers import MakeOptimizer, set_lr, take_step

KINDS: dict[str, MakeOptimizer] = {
    "adamw": mk.AdamW(),
    "lars": mk.LARS(weight_decay=0.1),
    "sgd": lambda names: torch.optim.SGD(names.values(), momentum=0.9),  # decided for on the host
}


def gradients(names: dict[str, nn.Parameter], number: int) -> None:
    random = torch.Generator().manual_seed(number)
    for value in names.values():
        value.grad = torch.randn(value.shape, generator=random)


def snapshot(names: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = [optimizer.state[value][key] for value in names.values() for key in sorted(optimizer.state[value])]
    return [torch.as_tensor(tensor).detach().clone() for tensor in (*names.values(), *state)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_skipped_step_moves_nothing(kind: str) -> None:
    names = {"matrix": nn.Parameter(torch.randn(3, 4)), "bias": nn.Parameter(torch.randn(4))}
    optimizer = KINDS[kind](names)
    set_lr(optimizer, 0.1)
    gradients(names, 0)
    take_step(optimizer, torch.zeros(()))
    before = snapshot(names, optimizer)
    for damage, skip in ((1.0, 1.0), (float("nan"), 0.5), (float("inf"), 2.0)):
        gradients(names, 1)
        for value in names.values():
            assert value.grad is not None
            value.grad.mul_(damage)
        take_step(optimizer, torch.tensor(skip))
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(snapshot(names, optimizer), before, strict=True))
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_not_skipped_is_the_plain_one(kind: str) -> None:
    one, two = ({"matrix": nn.Parameter(torch.full((2, 3), 0.5)), "bias": nn.Parameter(torch.ones(3))} for _ in "ab")
    first, second = KINDS[kind](one), KINDS[kind](two)
    for number in range(3):
        for names, optimizer, skip in ((one, first, None), (two, second, torch.zeros(()))):
            set_lr(optimizer, 0.1)
            gradients(names, number)
            take_step(optimizer, skip)
    assert all(torch.equal(one[name], two[name]) for name in one)
