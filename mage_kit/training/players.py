"""Players: each a named set of parameters with an optimizer, a learning rate, a clip and a first step of its own.

Most tasks have one. Where two networks train against one another, the loop takes all their steps or none.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.optimizers import AdamW, MakeOptimizer
from mage_kit.training.ema import WeightMean

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Rate:
    """A learning rate by step: linear from 0 over the warm-up, then cosine to `least` at the last step.

    Args:
        peak: The largest.
        warmup: Steps of linear warm-up.
        least: At the end.

    Raises:
        MageKitError: If one of them is negative or not finite.
    """

    peak: float
    warmup: int = 0
    least: float = 0.0

    def __post_init__(self) -> None:
        """Refuse rates that nothing could be trained by."""
        for name in ("peak", "warmup", "least"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise MageKitError(f"rate: {name} {value}, must be a number of at least 0")

    def at(self, step: int, steps: int) -> float:
        """Return the rate of a step, from 0 to `steps`."""
        if step < self.warmup:
            return self.peak * step / self.warmup
        share = (step - self.warmup) / max(1, steps - self.warmup)
        return self.least + (self.peak - self.least) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class Objective(nn.Module):
    """A player's objective as a forward pass, for engine wrappers, which know modules alone.

    Args:
        module: Whose parameters the player trains.
        forward: Takes a task's work and the step, returns a scalar.
    """

    def __init__(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.forward = forward


class Player:
    """What trains by an optimizer of its own.

    Args:
        name: In logs, checkpoints, and the task's `objective`.
        module: Its parameters that require gradients are trained; all of its state is in checkpoints.
        optimizer: Makes the optimizer, once the engine has placed the parameters; None for `AdamW()`.
        rate: Learning rate by step, counted from `first_step`.
        clip: Largest norm of its gradient; None for no clipping.
        first_step: Step, from 0, at which it begins to play; before, its objective is not computed.
        ema: Decay of a running mean of its parameters, warmed up; None for no such mean.

    Raises:
        MageKitError: If one of them is of another type, or out of its range.

    Attributes:
        names: Its parameters by name, in the module's order; shards, where the engine shards.
        wrapped: Its objective as the engine runs it.
        optimizer: Its optimizer, once it has entered.
        mean: The running mean of its parameters, if there is one.
        norm: Of its last gradient.
    """

    names: dict[str, nn.Parameter]
    wrapped: Any
    optimizer: torch.optim.Optimizer
    mean: WeightMean | None

    def __init__(
        self,
        name: str,
        module: nn.Module,
        rate: Rate,
        optimizer: MakeOptimizer | None = None,
        *,
        clip: float | None = None,
        first_step: int = 0,
        ema: float | None = None,
    ) -> None:
        for word, value, kind in (("module", module, nn.Module), ("rate", rate, Rate)):
            if not isinstance(value, kind):
                raise MageKitError(f"player '{name}': {word} is a {type(value).__name__}, must be a {kind.__name__}")
        if optimizer is not None and (not callable(optimizer) or isinstance(optimizer, torch.optim.Optimizer | type)):
            has = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else f"a {type(optimizer).__name__}"
            rule = "must be a function that takes parameters by name and returns a torch optimizer"
            raise MageKitError(f"player '{name}': optimizer is {has}, {rule}")
        if clip is not None and not clip > 0:
            raise MageKitError(f"player '{name}': clip {clip}, must be above 0, or None")
        if ema is not None and not 0 <= ema <= 1:
            raise MageKitError(f"player '{name}': ema {ema}, must lie in [0, 1], or be None")
        self.name, self.module, self.rate = name, module, rate
        self.make_optimizer = optimizer or AdamW()
        self.clip, self.first_step, self.ema = clip, first_step, ema
        self.norm = 0.0

    def enter(self, fabric: Fabric, objective: Callable[..., Tensor]) -> None:
        """Place the module on the engine's device, wrapped around an objective; make the optimizer."""
        check_norms(self.name, self.module, fabric.world_size)
        self.module.train()
        self.module.to(fabric.device)  # buffers and frozen parts too, which sharding does not move
        self.wrapped = fabric.setup_module(Objective(self.module, objective))
        self.names = {name: value for name, value in self.module.named_parameters() if value.requires_grad}
        self.optimizer = self._make_optimizer()
        self.mean = None if self.ema is None else WeightMean(self.names, self.ema)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        """Make the optimizer, and make sure that it trains just what the player trains."""
        where = f"player '{self.name}'"
        try:
            optimizer = self.make_optimizer(self.names)
        except (TypeError, ValueError) as error:
            raise MageKitError(f"{where}: its optimizer cannot be made: {error}") from error
        kind = type(optimizer).__name__
        if not isinstance(optimizer, torch.optim.Optimizer):
            rule = "must be a function that takes parameters by name and returns a torch optimizer"
            raise MageKitError(f"{where}: optimizer gave a {kind}, {rule}")
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise MageKitError(f"{where}: {kind} steps by a closure, must step without one")
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        left_out = [name for name, parameter in self.names.items() if id(parameter) not in ids]
        if left_out:
            rule = "freeze what should not train (requires_grad_(False))"
            raise MageKitError(f"{where}: {kind} leaves out {len(left_out)} parameters, '{left_out[0]}' first; {rule}")
        if len(ids) > len(self.names):
            raise MageKitError(f"{where}: {kind} holds parameters that are not the player's")
        return optimizer

    def plays(self, step: int) -> bool:
        """Return whether it takes part in a step, from 0."""
        return step >= self.first_step

    def rate_at(self, step: int, steps: int) -> float:
        """Return its learning rate of a step; 0 before its first."""
        return self.rate.at(step - self.first_step, steps - self.first_step) if self.plays(step) else 0.0

    def moving(self) -> dict[str, tuple[nn.Module, str]]:
        """Return where a forward pass changes state by itself: in parts in training mode, what no gradient trains.

        Returns:
            By the tensor's name its module, and the attribute of it that holds the tensor.
        """
        parts = dict(self.module.named_modules())
        places = {name: name.rpartition(".")[::2] for name in self.module.state_dict() if name not in self.names}
        return {name: (parts[part], leaf) for name, (part, leaf) in places.items() if parts[part].training}


def check_players(players: Sequence[Player], steps: int) -> None:
    """Make sure that the players of a task can be told apart, share nothing, and play.

    Args:
        players: All of them.
        steps: Of the training.

    Raises:
        MageKitError: If there is none, two have one name or share a parameter, a name is no word (checkpoints have
            tensors as PLAYER/NAME), one has nothing to train, or begins before the first or after the last step.
    """
    if not players:
        raise MageKitError("players: none, a task must have at least one")
    for number, player in enumerate(players):
        if not isinstance(player, Player):
            raise MageKitError(f"players[{number}]: {type(player).__name__}, must be a Player")
    owners: dict[int, str] = {}
    for number, player in enumerate(players):
        place = f"players[{number}]"
        if not re.fullmatch(r"[A-Za-z]\w*", str(player.name)):
            rule = "must be a word of letters, digits and underscores"
            raise MageKitError(f"{place}.name: {player.name!r}, {rule}")
        if player.name in [other.name for other in players[:number]]:
            raise MageKitError(f"{place}.name: '{player.name}', is the name of another player too")
        if not 0 <= player.first_step < steps:
            rule = f"must be at least 0 and below the training's {steps} steps"
            raise MageKitError(f"player '{player.name}': first_step {player.first_step}, {rule}")
        parameters = [value for value in player.module.parameters() if value.requires_grad]
        if not parameters:
            raise MageKitError(f"player '{player.name}': its module has no parameter that requires a gradient")
        for parameter in parameters:
            owner = owners.setdefault(id(parameter), player.name)
            if owner != player.name:
                raise MageKitError(f"players '{owner}' and '{player.name}' share a parameter; each needs its own")


def check_norms(player: str, module: nn.Module, world: int) -> None:
    """Refuse batch norm of one process's images among several: neither step nor running means would be those of one.

    Args:
        player: Its name.
        module: What it trains.
        world: Number of processes.

    Raises:
        MageKitError: If there are several, and the module has such a norm.
    """
    for name, part in module.named_modules() if world > 1 else ():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not isinstance(part, nn.SyncBatchNorm):
            rule = "must be SyncBatchNorm, or a norm within an image, where there are several processes"
            raise MageKitError(f"player '{player}': {name or 'its module'} is a {type(part).__name__}, {rule}")


def check_reached(player: Player, world: int) -> str:
    """Look after a player's first pass for parameters that its objective did not reach.

    Args:
        player: With its gradients.
        world: Number of processes.

    Returns:
        A line to tell; nothing where all have gradients.

    Raises:
        MageKitError: If some have none and there are several processes, which would wait for them in vain.
    """
    idle = [name for name, parameter in player.names.items() if parameter.grad is None]
    if not idle:
        return ""
    words = f"player '{player.name}': {len(idle)} of its parameters got no gradient, '{idle[0]}' first"
    rule = "freeze them (requires_grad_(False)), or let the objective reach them"
    if world > 1:
        raise MageKitError(f"{words}; several processes need one of each: {rule}")
    return f"{words}: they stay as they are; to train by several processes, {rule}"


def check_objective(player: str, objective: object) -> None:
    """Make sure that a player's objective can be minimised.

    Raises:
        MageKitError: If it is not a scalar tensor, or depends on no parameter of the player.
    """
    if not isinstance(objective, Tensor) or objective.ndim:
        form = f"of shape {tuple(objective.shape)}" if isinstance(objective, Tensor) else type(objective).__name__
        raise MageKitError(f"objective of player '{player}': {form}, must be a scalar tensor, ()")
    if not objective.requires_grad:
        raise MageKitError(f"objective of player '{player}': depends on none of its parameters, so nothing is learned")
