"""The engine under the loop: one process, several with whole models (DDP), or several with parts of one (FSDP2)."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mage_kit.base import processes
from mage_kit.layers.blocks import Block


def make_fabric(device: torch.device, shard: bool = False, bfloat16: bool = False) -> Fabric:
    """Return the engine for the processes that there are; precision is the loop's affair, which autocasts.

    Args:
        device: Kind of device.
        shard: Spread one model over the processes instead of a copy each.
        bfloat16: Whether the loop computes products in bfloat16, so that sharded blocks may travel in it.
    """
    world, here = processes.started_by()
    if processes.world() == 1:
        return Fabric(accelerator=device.type, devices=1, plugins=[LightningEnvironment()])  # SLURM's is not asked
    # Buffers are the same everywhere by construction: constants, and means that were reduced over the processes.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    options: dict[str, Any] = {"gradient_as_bucket_view": True, buffers: False}
    strategy: Any = DDPStrategy(**options)
    if shard:
        spread = partial(shard_module, bfloat16=bfloat16)
        strategy = ModelParallelStrategy(spread, data_parallel_size=world, tensor_parallel_size=1)
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=world // here,
        strategy=strategy,
        plugins=[TorchElasticEnvironment()],
    )
    fabric.launch()
    return fabric


def shard_module(module: nn.Module, mesh: Any, bfloat16: bool = False) -> nn.Module:
    """Shard a module over a mesh with FSDP2: each transformer block by itself, all else with the root, tied tables too.

    What is frozen, as the tokenizer, stays whole in every process. Where the loop computes in bfloat16 the weights of
    blocks are gathered in it, half the traffic, and need no cast there; gradients are summed in float32, and so are
    the weights that the optimizer changes. The root, a few hundredths of all, stays in float32.

    Args:
        module: A player's objective.
        mesh: With a dimension "data_parallel".
        bfloat16: Whether blocks compute in bfloat16.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Inputs stay as they are: the sums along the blocks are float32, products are cast by autocast.
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    policy = low if bfloat16 else MixedPrecisionPolicy()
    frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    for part in module.modules():
        if isinstance(part, Block) and not frozen.intersection(part.parameters()):
            fully_shard(part, mesh=mesh["data_parallel"], mp_policy=policy)
    fully_shard(module, mesh=mesh["data_parallel"], ignored_params=frozen)
    return module
