"""Any torch optimizer resumes in the same bits, whatever it keeps; what could not be brought back is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mage_kit as mk
from mage_kit.training.checkpoints import State, load_checkpoint, save_checkpoint
from mage_kit.training.engine import make_fabric


class Drifting(torch.optim.Optimizer):
    """Its step grows by a number in the group, and by a plain one that it keeps for each parameter."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0, "steps": 0, "span": (0.5, 1.0)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["steps"] += 1
            group["span"] = (group["span"][0] * 0.9, 1.0)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["count"] = state.get("count", 0) + 2
                    parameter.sub_(group["lr"] * group["span"][0] / state["count"] / group["steps"] * parameter.grad)


class Net(nn.Module):
    """One of its parameters gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.image = nn.Conv2d(2, 5, 3, padding=1).to(memory_format=torch.channels_last)  # whose strides are its own
        self.idle = nn.Parameter(torch.ones(4))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        pictures = values[:, :2, None, None].expand(-1, -1, 4, 4).contiguous(memory_format=torch.channels_last)
        return self.second(torch.tanh(self.first(values))).square().mean() + self.image(pictures).square().mean()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd without momentum": lambda each: torch.optim.SGD(each),
    "sgd": lambda each: torch.optim.SGD(each, momentum=0.9),
    "adamw": lambda each: torch.optim.AdamW(each, fused=True),
    "adamw in a loop": lambda each: torch.optim.AdamW(each, foreach=False),
    "amsgrad": lambda each: torch.optim.Adam(each, amsgrad=True),
    "adafactor": lambda each: torch.optim.Adafactor(each),
    "radam": lambda each: torch.optim.RAdam(each),
    "nadam": lambda each: torch.optim.NAdam(each),
    "adagrad": lambda each: torch.optim.Adagrad(each),
    "asgd": lambda each: torch.optim.ASGD(each, t0=1),
    "rprop": lambda each: torch.optim.Rprop(each),
    "rmsprop": lambda each: torch.optim.RMSprop(each, momentum=0.5, centered=True),
    "plain values": Drifting,
}


def player_of(make: Callable[[Any], torch.optim.Optimizer]) -> mk.Player:
    player = mk.Player("net", Net(), mk.Rate(0.05), lambda names: make(list(names.values())))
    player.enter(make_fabric(torch.device("cpu"), False), player.module.forward)
    return player


def go(player: mk.Player, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        player.wrapped(torch.rand(5, 6, generator=generator)).backward()
        for group in player.optimizer.param_groups:
            group["lr"] = player.rate_at(step, 8)
        player.optimizer.step()
        player.optimizer.zero_grad()


def save(player: mk.Player, folder: Path, step: int = 4) -> Path:
    return save_checkpoint(folder, step, State([player], {}), "{}", keep=1)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_resumes_in_the_same_bits(kind: str, tmp_path: Path) -> None:
    whole, cut, resumed = (player_of(OPTIMIZERS[kind]) for _ in range(3))
    go(whole, range(8))
    go(cut, range(4))
    assert load_checkpoint(save(cut, tmp_path), State([resumed], {})) == 4
    go(resumed, range(4, 8))
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    if kind not in ("sgd without momentum",):
        fresh = player_of(OPTIMIZERS[kind])
        fresh.module.load_state_dict(cut.module.state_dict())
        go(fresh, range(4, 8))
        states = zip(whole.module.state_dict().values(), fresh.module.state_dict().values(), strict=True)
        assert not all(torch.equal(*pair) for pair in states), "its state means nothing, so the test shows nothing"


def test_a_checkpoint_of_another_optimizer_is_named(tmp_path: Path) -> None:
    def grouped(values: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": values[:1]}, {"params": values[1:]}])

    player = player_of(OPTIMIZERS["sgd"])
    go(player, range(2))
    path = save(player, tmp_path)
    with pytest.raises(mk.MageKitError, match="another training: net has 2 groups of parameters, not 1"):
        load_checkpoint(path, State([player_of(grouped)], {}))


def test_what_could_not_be_brought_back_is_refused(tmp_path: Path) -> None:
    changes: list[tuple[Callable[[torch.optim.Optimizer], object], str]] = [
        (lambda each: each.state["all"].update(total=1), "SGD keeps state of 'all', must keep it by parameters"),
        (lambda each: each.param_groups[0].update(d=torch.ones(1)), "a tensor as 'd' of group 0, must be a plain"),
        (
            lambda each: each.state[each.param_groups[0]["params"][0]].update(seen={1, 2}),
            "idle/seen, a set, must be a tensor or a plain value",
        ),
    ]
    for change, words in changes:
        player = player_of(OPTIMIZERS["sgd"])
        change(player.optimizer)
        with pytest.raises(mk.MageKitError, match=words):
            save(player, tmp_path)
    assert not list(tmp_path.iterdir())
