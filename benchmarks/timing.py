"""How long something takes: medians, twice, so that the spread shows.

On a GPU by events, inputs rotated past the L2 cache; microsecond work is replayed from a graph, which leaves the cost
of launching out of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.ceilings import synchronise

_SHORT = 200e-6  # below this, launching costs as much as the work


@dataclass(frozen=True)
class Timing:
    """Seconds of one run.

    Args:
        seconds: Median.
        spread: Difference of two medians, one after the other, as a share.
    """

    seconds: float
    spread: float


def halves(seconds: Sequence[float]) -> Timing:
    """Make a timing of the times of repeats in order: the medians of both halves."""
    middle = len(seconds) // 2
    first, second = statistics.median(seconds[:middle]), statistics.median(seconds[middle:])
    return Timing(min(first, second), abs(first - second) / min(first, second))


def timed(runs: Sequence[Callable[[], object]], device: torch.device, warm: int, repeats: int) -> Timing:
    """Time runs in turn.

    Args:
        runs: The same work on different inputs.
        device: Where it runs.
        warm: Untimed runs first.
        repeats: Timed runs for each of the two medians.
    """
    for index in range(warm):
        runs[index % len(runs)]()
    synchronise(device)
    once = _on_gpu if device.type == "cuda" else _on_cpu
    first, second = (statistics.median(once(runs, repeats)) for _ in range(2))
    if device.type == "cuda" and first < _SHORT:
        graphs = [_graph(run) for run in runs]
        if all(graph is not None for graph in graphs):
            replays = [graph.replay for graph in graphs if graph is not None]
            first, second = (statistics.median(_on_gpu(replays, repeats)) for _ in range(2))
    return Timing(min(first, second), abs(first - second) / min(first, second))


def _on_cpu(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    found = []
    for index in range(repeats):
        start = time.perf_counter()
        runs[index % len(runs)]()
        found.append(time.perf_counter() - start)
    return found


def _on_gpu(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    pairs = []
    for index in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        runs[index % len(runs)]()
        stop.record()
        pairs.append((start, stop))
    torch.cuda.synchronize()
    return [start.elapsed_time(stop) * 1e-3 for start, stop in pairs]


def _graph(run: Callable[[], object]) -> torch.cuda.CUDAGraph | None:
    """Capture a run; None where it reads something back, found before: a capture that fails spoils what comes after."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError:
        return None
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        run()
    return graph
