"""From one pass to a run: operations an image, the batch that fits, days, and the link between processes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mage_kit.base.draws import generator
from mage_kit.base.errors import MageKitError
from mage_kit.models.mage import Mage
from mage_kit.planning.memory import Memory, memory_of_step
from mage_kit.planning.walk import PARTS, AttentionKind, Numbers, walk_step, walk_tokenizers
from mage_kit.recipes.workload import Workload

IMAGENET = 1_281_167
_COUNTED = 8  # images of the pass that operations are counted on
_DRAWS = 4096  # mask ratios that the mean is taken over
_ROOM = 0.92  # of the memory, the rest being the allocator's and the driver's
_LARGEST = 65_536


@dataclass(frozen=True)
class Machine:
    """What a run is planned for.

    Args:
        processes: GPUs in all.
        tflops: Matrix rate of one in the recipe's precision, 10^12 operations a second, as its data sheet says.
        utilization: Share of it that training reaches.
        bandwidth: Of the slowest link that a process's gradients pass, GB/s each way.
        memory: Of one, GiB.
    """

    processes: int = 8
    tflops: float = 400.0
    utilization: float = 0.35
    bandwidth: float = 25.0
    memory: float = 80.0


@dataclass(frozen=True)
class Estimate:
    """What a recipe costs.

    Args:
        parameters: By part, tokenizer among them.
        operations: Of an image in training, by part: forward and backward, the tokenizer forward alone.
        batch: Images a step.
        micro: Images at once in a process.
        memory: Of a process at that size.
        fits: Largest number of images at once in a process that the memory holds; 0 for none.
        steps: Of the run.
        seconds_per_step: Computing alone.
        traffic: Bytes that a process sends a step.
        link_seconds: That they take on the link; most of it runs beside the backward pass.
        days: Of the run, computing alone.
        ratio: Mean mask ratio that all this is for.
    """

    parameters: dict[str, int]
    operations: dict[str, float]
    batch: int
    micro: int
    memory: Memory
    fits: int
    steps: int
    seconds_per_step: float
    traffic: float
    link_seconds: float
    days: float
    ratio: float


def estimate(work: Workload, machine: Machine, images: int = IMAGENET, attention: AttentionKind = "fused") -> Estimate:
    """Work out what a training costs on a machine; nothing is run but on the meta device.

    Args:
        work: Of a recipe; `workload` reads it.
        machine: What it is planned for.
        images: In the data set.
        attention: "fused" for GPUs' kernels, "matmul" for the form that most CPUs train by.

    Raises:
        MageKitError: If its batch cannot be spread over the processes.
    """
    _check(work, machine, images)
    model = work.model
    ratio = _mean_ratio(work)
    numbers = _numbers(work, attention)
    operations = _operations(model, ratio, numbers, recompute=work.recompute, tokens_cached=work.cached)
    local = work.batch // machine.processes
    if work.micro_batch is None:
        work = dataclasses.replace(work, micro_batch=fitting_share(work, local, machine, attention))
    micro = min(work.micro_batch or local, local)

    def memory(count: int) -> Memory:
        return _memory(work, count, ratio, numbers, local, machine.processes)

    trainable = sum(value.numel() for _, value in model.trainable())
    ring = (machine.processes - 1) / machine.processes
    passes = local // micro  # sharded weights are fetched for forward and backward of each, gradients sent once
    weight_bytes = 2.0 if work.low_precision else 4.0  # blocks travel in what they compute in
    sent = 2 * passes * weight_bytes + 4.0 if work.shard else 8.0
    traffic = sent * ring * trainable
    rate = machine.processes * machine.tflops * 1e12 * machine.utilization
    seconds = work.batch * sum(operations.values()) / rate
    steps = work.length(images)
    return Estimate(
        parameters=_parameters(model),
        operations=operations,
        batch=work.batch,
        micro=micro,
        memory=memory(micro),
        fits=_fitting(memory, machine.memory * 2**30 * _ROOM),
        steps=steps,
        seconds_per_step=seconds,
        traffic=traffic,
        link_seconds=traffic / (machine.bandwidth * 1e9),
        days=steps * seconds / 86_400,
        ratio=ratio,
    )


def fitting_share(work: Workload, local: int, machine: Machine, attention: AttentionKind) -> int:
    """Return the largest part of a process's share whose pass fits its memory: what training takes unless told; or 1.

    Args:
        work: The training; its `micro_batch` does not count.
        local: Images a step and process.
        machine: Its processes and memory count.
        attention: See `estimate`.
    """
    parts = [size for size in range(local, 0, -1) if local % size == 0]
    ratio = _mean_ratio(work)
    for size in parts:
        trial = dataclasses.replace(work, micro_batch=size)
        memory = _memory(trial, size, ratio, _numbers(work, attention), local, machine.processes)
        if memory.peak <= machine.memory * 2**30 * _ROOM:
            return size
    return 1


def operations_an_image(work: Workload) -> float:
    """Return the operations of an image in training, forward and backward, its tokenizing among them."""
    ratio = _mean_ratio(work)
    parts = _operations(work.model, ratio, _numbers(work, "fused"), recompute=work.recompute, tokens_cached=work.cached)
    return sum(parts.values())


def step_memory(work: Workload, attention: AttentionKind = "fused", shards: int = 1) -> tuple[int, Memory]:
    """Return how many images a process takes at once, and the memory of that pass; `estimate` says more.

    Args:
        work: Its batch is the process's own share.
        attention: See `estimate`.
        shards: Processes that weights are spread over, where the recipe shards.
    """
    ratio = _mean_ratio(work)
    micro = min(work.micro_batch or work.batch, work.batch)
    return micro, _memory(work, micro, ratio, _numbers(work, attention), work.batch, shards)


def _mean_ratio(work: Workload) -> float:
    """The mean mask ratio of a training, over the same draws each time."""
    return float(work.model.draw_ratios(_DRAWS, generator(0, "plan")).mean())


def _memory(work: Workload, images: int, ratio: float, numbers: Numbers, local: int, processes: int) -> Memory:
    return memory_of_step(
        work.model, images, ratio, numbers, state_values=work.state_values, ema=work.ema, recompute=work.recompute,
        accumulates=min(work.micro_batch or local, local) < local, shards=processes if work.shard else 1,
        tokens_cached=work.cached,
    )  # fmt: skip


def _numbers(work: Workload, attention: AttentionKind) -> Numbers:
    return Numbers(2 if work.low_precision else 4, 1 if attention == "fused" else 2, attention)


def _check(work: Workload, machine: Machine, images: int) -> None:
    """Raise MageKitError unless a machine of that kind can train so."""
    for name, value in dataclasses.asdict(machine).items():
        if not (math.isfinite(value) and value > 0):
            raise MageKitError(f"{name}: {value}, must be a finite number above 0")
    if work.batch % machine.processes:
        raise MageKitError(f"processes: {machine.processes}, must divide $.training.batch ({work.batch})")
    if images < work.batch:
        raise MageKitError(f"images: {images}, must be at least $.training.batch ({work.batch})")


def _operations(
    model: Mage, ratio: float, numbers: Numbers, *, recompute: bool, tokens_cached: bool
) -> dict[str, float]:
    """Operations of an image in a training step, by part."""
    costs = walk_step(model, _COUNTED, ratio, numbers)
    operations = {"tokenizer": 0.0 if tokens_cached else walk_tokenizers(model, model.views)[0]}
    operations |= {name: costs[name].training / _COUNTED for name in PARTS}
    if recompute:
        for name in ("decoder",) if model.frozen else ("encoder", "decoder"):
            operations[name] += costs[name].forward / _COUNTED
    return operations


def _parameters(model: torch.nn.Module) -> dict[str, int]:
    """Parameters by the model's top-level parts."""
    return {
        name: sum(value.numel() for value in part.parameters())
        for name, part in model.named_children()
        if any(True for _ in part.parameters())
    }


def _fitting(memory: Callable[[int], Memory], limit: float) -> int:
    """Largest batch below a limit: a straight line through two points says where to look, for most losses exactly."""
    one, more = memory(2), memory(10)
    slope = (more.peak - one.peak) / 8
    if one.peak > limit:
        return int(memory(1).peak <= limit)
    guess = int(min(_LARGEST, 2 + (limit - one.peak) / max(slope, 1.0)))
    fits, beyond = 2, guess + 1
    while beyond - fits > max(1, fits // 100):
        fits, beyond = (guess, beyond) if memory(guess).peak <= limit else (fits, guess)
        guess = (fits + beyond) // 2
    return fits


def as_json(costs: Estimate) -> dict[str, object]:
    """Return an estimate as JSON values, the memory's peak among them."""
    return {**dataclasses.asdict(costs), "peak_bytes": costs.memory.peak}
