"""What an optimizer remembers, as named tensors and plain values: any torch optimizer resumes in the same bits.

Tensors of a parameter are called NAME/KIND after the parameter and torch's own word, as blocks.0.fc.weight/exp_avg.
Plain values are the rest of them, and the settings of the parameter groups, some of which optimizers change as they go.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.training.players import Player

_OURS = ("params", "lr")  # the learning rate is set before each step


def state_tensors(player: Player) -> dict[str, Tensor]:
    """Return the tensors that a player's optimizer keeps, by NAME/KIND; parts of them where the engine shards.

    Raises:
        MageKitError: If it keeps something that no checkpoint could bring back.
    """
    _check_owners(player)
    tensors = {}
    for place, value in _items(player):
        if isinstance(value, Tensor):
            parameter = player.names[place.rpartition("/")[0]]
            if hasattr(parameter, "device_mesh") and value.ndim and value.shape != parameter.shape:
                rule = "must have the parameter's shape where `shard` is true"
                raise _unfit(player, f"{place} of shape {tuple(value.shape)}", rule)
            tensors[place] = value
    return tensors


def plain_values(player: Player) -> dict[str, Any]:
    """Return what else it keeps, for JSON: {"state": {NAME/KIND: value}, "groups": [{setting: value}]}.

    Raises:
        MageKitError: If a value is neither a tensor nor plain.
    """
    state = {}
    for place, value in _items(player):
        if not isinstance(value, Tensor):
            if not _is_plain(value):
                raise _unfit(player, f"{place}, a {type(value).__name__}", "must be a tensor or a plain value")
            state[place] = value
    groups = []
    for number, group in enumerate(player.optimizer.param_groups):
        for name, value in group.items():
            if name not in _OURS and not _is_plain(value):
                kind = "tensor" if isinstance(value, Tensor) else type(value).__name__
                raise _unfit(player, f"a {kind} as '{name}' of group {number}", "must be a plain value")
        groups.append({name: value for name, value in group.items() if name not in _OURS and _is_plain(value)})
    return {"state": state, "groups": groups}


def fill_optimizer(player: Player, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Give an optimizer what it had when a checkpoint was written.

    Args:
        player: Whose optimizer is changed in place.
        tensors: In full, on the CPU, as `state_tensors` names them.
        values: As `plain_values` gives them.
    """
    groups = {id(parameter): group for group in player.optimizer.param_groups for parameter in group["params"]}
    player.optimizer.state.clear()
    for place, value in {**tensors, **values.get("state", {})}.items():
        name, _, kind = place.rpartition("/")
        parameter = player.names[name]
        if isinstance(value, Tensor):
            value = _place(value, kind, parameter, groups[id(parameter)])
        player.optimizer.state[parameter][kind] = value
    for group, numbers in zip(player.optimizer.param_groups, values.get("groups", []), strict=False):
        for name, value in numbers.items():
            group[name] = tuple(value) if isinstance(group.get(name), tuple) else value


def optimizer_misfits(player: Player, tensors: dict[str, Tensor], values: dict[str, Any]) -> list[str]:
    """Say what of a checkpoint belongs to another optimizer than a player's; nothing where all fits."""
    lines = [
        f"{player.name} has no parameter for {place}"
        for place in [*tensors, *values.get("state", {})]
        if place.rpartition("/")[0] not in player.names
    ]
    groups, mine = len(values.get("groups", [])), len(player.optimizer.param_groups)
    return [*lines, f"{player.name} has {mine} groups of parameters, not {groups}"] if groups != mine else lines


def _items(player: Player) -> list[tuple[str, Any]]:
    state = player.optimizer.state
    return [
        (f"{name}/{kind}", value)
        for name, parameter in player.names.items()
        if parameter in state
        for kind, value in state[parameter].items()
    ]


def _check_owners(player: Player) -> None:
    """What is kept under anything but a trained parameter would be lost."""
    ids = {id(parameter) for parameter in player.names.values()}
    for owner, entries in player.optimizer.state.items():
        if id(owner) not in ids and entries:
            raise _unfit(player, f"state of '{owner}'", "must keep it by parameters of the player")


def _place(value: Tensor, kind: str, parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """A tensor where its optimizer expects it: a count of steps stays on the CPU unless the step is one kernel."""
    if kind == "step":
        on_device = group.get("fused") or group.get("capturable")
        return value.to(parameter.device) if on_device else value
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    if hasattr(parameter, "device_mesh"):
        return processes.sharded_like(value, parameter)
    # Laid out as the parameter is: kernels that step in one launch walk through both alike, whatever their strides.
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def _unfit(player: Player, what: str, rule: str) -> MageKitError:
    return MageKitError(f"player '{player.name}': {type(player.optimizer).__name__} keeps {what}, {rule}")
