"""The engine under a stage: one process, several with whole models (DDP), or several with parts of one (FSDP2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mage_kit import processes
from mage_kit.blocks import Block
from mage_kit.errors import RecipeError
from mage_kit.training.probe import fabric_precision


@dataclass(frozen=True)
class BatchPlan:
    """How a step's images are spread.

    Args:
        batch: Images a step, over all processes.
        world: Processes.
        micro: Images at once in a process.
    """

    batch: int
    world: int
    micro: int

    @property
    def local(self) -> int:
        """Images a step and process."""
        return self.batch // self.world

    @property
    def accumulation(self) -> int:
        """Forward and backward passes before an optimiser step."""
        return self.local // self.micro

    def __str__(self) -> str:
        """The arithmetic of the effective batch."""
        spread = f"{self.micro} a process x {self.world} processes x {self.accumulation} accumulated"
        return f"{spread} = {self.batch} images a step"


def spread(section: str, batch: int, micro: int | None, name: str) -> BatchPlan:
    """Spread a batch over the processes of this run.

    Args:
        section: Of the recipe, for errors.
        batch: Images a step, over all processes.
        micro: Images at once in a process; None for its whole share, to which more is cut.
        name: Of the recipe.

    Raises:
        RecipeError: If the numbers do not divide.
    """
    world = processes.world()
    if batch % world:
        advice = "--processes N starts another number of them"
        found = [f"$.{section}.batch: {batch}, must be a multiple of the processes ({world}); {advice}"]
        raise processes.shared(RecipeError(found, name))
    local = batch // world
    chosen = min(micro or local, local)
    if local % chosen:
        found = [f"$.{section}.micro_batch: {chosen}, must divide a process's share ({local})"]
        raise processes.shared(RecipeError(found, name))
    return BatchPlan(batch, world, chosen)


def make_fabric(device: torch.device, precision: str, shard: bool = False) -> Fabric:
    """Return the engine for the processes that there are.

    Args:
        device: Kind of device.
        precision: "float32" or "bfloat16".
        shard: Spread one model over the processes instead of a copy each.
    """
    world, here = processes.started_by()
    mode = fabric_precision(precision)
    if processes.world() == 1:
        return Fabric(accelerator=device.type, devices=1, precision=mode)
    # Buffers are the same everywhere by construction: constants, and means that were reduced over the processes.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {"gradient_as_bucket_view": True, buffers: False}
    strategy: Any = DDPStrategy(**options)
    if shard:
        strategy = ModelParallelStrategy(shard_module, data_parallel_size=world, tensor_parallel_size=1)
    fabric = Fabric(accelerator=device.type, devices=here, num_nodes=world // here, strategy=strategy, precision=mode)
    fabric.launch()
    return fabric


def shard_module(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard a module over a mesh with FSDP2: each transformer block by itself, all else with the root, tied tables too.

    What is frozen, as the tokenizer, stays whole in every process.
    """
    from torch.distributed.fsdp import fully_shard

    frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    for part in module.modules():
        if isinstance(part, Block) and not frozen.intersection(part.parameters()):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=frozen)
    return module


def accumulate(fabric: Fabric, module: nn.Module, count: int, run: Callable[[int], None]) -> None:
    """Run `count` forward and backward passes; gradients travel between processes with the last one alone."""
    for number in range(count):
        with fabric.no_backward_sync(module, enabled=number < count - 1):  # type: ignore[arg-type]  # set up by fabric
            run(number)
