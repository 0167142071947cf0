"""How a step grows over processes: a simulation of its parts, block by block, on the links between them.

In the backward pass each block's gradients set out as soon as they are there, one after the other on one link, while
the next block computes; the step ends when both have ended. What the link still carries after the last block has
computed is waited for. A ring of w processes sends 2 (w - 1) / w of the bytes each (docs/planning.md). Whole models are
simulated; sharded ones also fetch weights, which this leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mage_kit.models.mage import Mage
from mage_kit.planning.estimate import Estimate, Machine

_AT_A_NODE = 8
_FORWARD = 1 / 3  # of a training pass: backward is two of them
_MESSAGE = 30e-6  # seconds that a ring takes to begin a message, each process


@dataclass(frozen=True)
class StepForecast:
    """A step over so many processes.

    Args:
        processes: One a GPU.
        images: Of a process.
        computing: Seconds.
        waiting: Seconds after that for gradients that are still under way.
        traffic: Bytes that a process sends.
        efficiency: Images a second and process, to those of one process alone.
    """

    processes: int
    images: int
    computing: float
    waiting: float
    traffic: float
    efficiency: float


def scale(
    costs: Estimate, model: Mage, machine: Machine, counts: Sequence[int], node_bandwidth: float
) -> list[StepForecast]:
    """Simulate a recipe's step over other numbers of processes, those that its batch can be spread over.

    Args:
        costs: The recipe's estimate.
        model: Its model, for the blocks and their bytes.
        machine: Rate and utilization of one process, and the link between machines.
        counts: Numbers of processes.
        node_bandwidth: Of the links within a machine of 8, GB/s each way.
    """
    rate = machine.tflops * 1e12 * machine.utilization
    seconds = sum(costs.operations.values()) / rate  # an image
    sizes = bucket_bytes(model)
    model_share = 1 - costs.operations["tokenizer"] / sum(costs.operations.values())  # tokens come before the pass
    lines = []
    for count in counts:
        if costs.batch % count:
            continue
        images = costs.batch // count
        computing = images * seconds
        bandwidth = node_bandwidth if count <= _AT_A_NODE else min(node_bandwidth, machine.bandwidth)
        ring = 2 * (count - 1) / count
        times = [ring * size / (bandwidth * 1e9) + (_MESSAGE if count > 1 else 0.0) for size in sizes]
        passes = max(1, -(-images // max(1, costs.micro)))
        waiting = wait_for_link(model_share * computing / passes, times)  # gradients travel with the last pass alone
        lines.append(
            StepForecast(count, images, computing, waiting, ring * sum(sizes), computing / (computing + waiting))
        )
    return lines


def wait_for_link(computing: float, times: Sequence[float]) -> float:
    """Return how long the link is busy after the last pass has computed.

    Args:
        computing: Seconds of that pass; its backward part is spread evenly over the blocks.
        times: Seconds on the link of each block's gradients, in the order in which they come up.
    """
    begin, backward = computing * _FORWARD, computing * (1 - _FORWARD)
    free = begin
    for number, time in enumerate(times, start=1):
        free = max(free, begin + backward * number / len(times)) + time
    return max(0.0, free - computing)


def bucket_bytes(model: Mage) -> list[float]:
    """Return the bytes of gradients (float32) in the order of the backward pass: decoder's blocks, then encoder's.

    What is in no block, embeddings and heads, counts to the last ones.
    """
    sizes = []
    for part in (model.decoder, model.encoder):
        blocks = list(getattr(part, "blocks", []))
        sizes += [4.0 * sum(value.numel() for value in block.parameters() if value.requires_grad) for block in blocks]
    trained = 4.0 * sum(value.numel() for _, value in model.trainable())
    sizes = [size for size in sizes if size]
    return [*sizes, max(0.0, trained - sum(sizes))]
