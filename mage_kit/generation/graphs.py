"""The model's pass as a CUDA graph: at few images the host, not the device, is what decoding waits for.

A pass launches a thousand kernels. For one image each runs for a few microseconds, less than it takes to launch it;
recorded once and replayed, they run back to back. Only the pass is recorded: what follows it differs from step to
step, and is short.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from mage_kernels.attention import first_line
from torch import Tensor

from mage_kit.layers.condition import Condition
from mage_kit.models.mage import Mage

MOST_IMAGES = 16  # at once, up to which the host is what takes the time

Replay = Callable[[], Tensor]
Record = Callable[[Callable[[], Tensor], torch.device], Replay]
"""Takes a pass over tensors that stay where they are, and their device; returns what repeats it, with its output."""

_one_at_a_time = threading.Lock()  # torch records one graph at a time in a process
_failed = threading.Event()  # once a recording has failed, none is tried again


def record_on_cuda(run: Callable[[], Tensor], device: torch.device) -> Replay:
    """Record a pass as a CUDA graph, on the model's own device; the pass must have run there before.

    Autocast's copies of weights belong to the graph: those that it keeps are all threads' together, and are freed when
    any thread leaves its outermost autocast.
    """
    kind = torch.get_autocast_dtype("cuda")
    with torch.cuda.device(device):
        graph, stream, before = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(before)
        with (
            torch.cuda.stream(stream),
            torch.autocast("cuda", kind, enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False),
        ):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                output = run()
            finally:
                graph.capture_end()
        before.wait_stream(stream)

    def replay() -> Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return output

    return replay


class Passes:
    """`model.logits`, recorded at its second call of a form; the first is worth no recording, and warms up.

    One thread uses it, for one decoding.

    Args:
        model: In evaluation mode, and left as it is while this is used.
        images: At once.
        record: How a pass is recorded; None for CUDA graphs on CUDA at few images, and no recording elsewhere.
    """

    def __init__(self, model: Mage, images: int, record: Record | None = None) -> None:
        self._model = weakref.proxy(model)
        few = model.device.type == "cuda" and images <= MOST_IMAGES
        self._record = record or (record_on_cuda if few and not _failed.is_set() else None)
        self._calls: dict[Any, int] = {}
        self._replays: dict[Any, tuple[Tensor, Tensor, Condition | None, Replay]] = {}

    def __call__(
        self,
        ids_BL: Tensor,
        masked_BL: Tensor,
        condition: Condition | None = None,
        rows_M: Tensor | None = None,
        guidance: float = 0.0,
    ) -> Tensor:
        """Return what `Mage.logits` returns; where recorded, it is overwritten by the next call."""
        if self._record is None or rows_M is not None or (guidance and condition is not None):
            return self._model.logits(ids_BL, masked_BL, condition, rows_M, guidance)  # type: ignore[no-any-return]  # a proxy
        key = (tuple(ids_BL.shape), ids_BL.dtype, id(condition))  # a recording keeps its condition alive
        if key not in self._replays:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] < 2 or not self._try_to_record(key, ids_BL, masked_BL, condition):
                return self._model.logits(ids_BL, masked_BL, condition)  # type: ignore[no-any-return]  # a proxy
        ids, masked, _, replay = self._replays[key]
        ids.copy_(ids_BL)
        masked.copy_(masked_BL)
        return replay()

    def _try_to_record(self, key: Any, ids_BL: Tensor, masked_BL: Tensor, condition: Condition | None) -> bool:
        """Record a pass over copies of its inputs, unless another thread records one; return whether it was done."""
        assert self._record is not None
        ids, masked = ids_BL.clone(), masked_BL.clone()
        if not _one_at_a_time.acquire(blocking=False):
            return False
        try:
            replay = self._record(lambda: self._model.logits(ids, masked, condition), ids.device)
        except RuntimeError as error:  # a part of a plug-in's that reads back, a driver without graphs
            self._record = None
            _failed.set()
            words = "a pass cannot be recorded as a CUDA graph, and runs as it is written"
            warnings.warn(f"generation: {words} ({first_line(error)})", RuntimeWarning, stacklevel=2)
            return False
        finally:
            _one_at_a_time.release()
        self._replays[key] = (ids, masked, condition, replay)
        return True
