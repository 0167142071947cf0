"""Batches brought to the GPU while the step before them is computed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import torch

from mage_kit.training.batches import Batch


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches, their content on the device; on CUDA each is copied while the one before is computed.

    Args:
        batches: In pinned memory, where the device is a GPU.
        device: Where they go; on a CPU they stay as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies, ahead = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(copies):
            content = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.content.items()}
        copied = dataclasses.replace(batch, content=content)
        if ahead is not None:
            yield _arrived(ahead, copies, device)
        ahead = copied
    if ahead is not None:
        yield _arrived(ahead, copies, device)


def _arrived(batch: Batch, copies: torch.cuda.Stream, device: torch.device) -> Batch:
    """Have the computing stream wait for a copy, and the allocator know that it is read there."""
    stream = torch.cuda.current_stream(device)
    stream.wait_stream(copies)
    for tensor in batch.content.values():
        tensor.record_stream(stream)
    return batch


def timed(batches: Iterator[Batch], waited: Callable[[float], None]) -> Iterator[Batch]:
    """Yield batches; what each was waited for, in seconds, is told."""
    while True:
        start = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        waited(time.monotonic() - start)
        yield batch
