"""Batches brought to the GPU while the step before them is computed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator

import torch

from mage_kit.training.batches import Batch

_MOST_BYTES = 64 << 20  # of a batch that is brought over whole: three may be there at once, and none is planned for


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches, their content on the device; on CUDA each is copied while the one before is computed.

    Args:
        batches: In pinned memory, where the device is a GPU. Large ones stay there, and are fetched piece by piece.
        device: Where they go; on a CPU they stay as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream, ahead = torch.cuda.Stream(device), None
    for batch in batches:
        copy = _copy(batch, stream, device)
        if ahead is not None:
            yield _arrive(*ahead, device)
        ahead = copy
    if ahead is not None:
        yield _arrive(*ahead, device)


def _copy(batch: Batch, stream: torch.cuda.Stream, device: torch.device) -> tuple[Batch, torch.cuda.Event | None]:
    """Begin to copy a batch; return it with the event that ends the copy."""
    if sum(tensor.nbytes for tensor in batch.content.values()) > _MOST_BYTES:
        return batch, None
    with torch.cuda.stream(stream):
        content = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.content.items()}
        end = torch.cuda.Event()
        end.record(stream)
    return dataclasses.replace(batch, content=content), end


def _arrive(batch: Batch, end: torch.cuda.Event | None, device: torch.device) -> Batch:
    """Have the computing stream wait for a copy, and the allocator know that it is read there."""
    if end is not None:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(end)
        for tensor in batch.content.values():
            tensor.record_stream(stream)
    return batch


def time_waits(batches: Iterator[Batch], tell: Callable[[float], None]) -> Iterator[Batch]:
    """Yield batches; tell what each was waited for, in seconds."""
    while True:
        start = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        tell(time.monotonic() - start)
        yield batch
