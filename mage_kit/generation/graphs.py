"""The model's pass as a CUDA graph: at few images the host, not the device, is what decoding waits for.

A pass launches a thousand kernels. For one image each runs for a few microseconds, less than it takes to launch it;
recorded once and replayed, they run back to back. Only the pass is recorded: what follows it differs from step to
step, and is short.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mage_kit.layers.condition import Condition
from mage_kit.models.mage import Mage

MOST_IMAGES = 16  # at once, up to which the host is what takes the time
_WARM_UPS = 2  # passes before a recording: libraries set themselves up in them

Replay = Callable[[], Tensor]
Record = Callable[[Callable[[], Tensor]], Replay]
"""Takes a pass over tensors that stay where they are; returns what repeats it and gives its output."""


def record_on_cuda(run: Callable[[], Tensor]) -> Replay:
    """Record a pass as a CUDA graph; its memory is its own. Other threads may use the device meanwhile."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class Passes:
    """`model.logits`, recorded at its second call of a form; the first is worth no recording.

    Args:
        model: In evaluation mode, and left as it is while this is used.
        images: At once.
        record: How a pass is recorded; None for CUDA graphs on CUDA at few images, and no recording elsewhere.
    """

    def __init__(self, model: Mage, images: int, record: Record | None = None) -> None:
        self._model = weakref.proxy(model)
        few = model.device.type == "cuda" and images <= MOST_IMAGES
        self._record = record or (record_on_cuda if few else None)
        self._calls: dict[Any, int] = {}
        self._replays: dict[Any, tuple[Tensor, Tensor, Replay]] = {}

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
        key = (tuple(ids_BL.shape), ids_BL.dtype, id(condition))
        if key not in self._replays:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] < 2 or not self._try_to_record(key, ids_BL, masked_BL, condition):
                return self._model.logits(ids_BL, masked_BL, condition)  # type: ignore[no-any-return]  # a proxy
        ids, masked, replay = self._replays[key]
        ids.copy_(ids_BL)
        masked.copy_(masked_BL)
        return replay()

    def _try_to_record(self, key: Any, ids_BL: Tensor, masked_BL: Tensor, condition: Condition | None) -> bool:
        """Record a pass over copies of its inputs; where that cannot be done, nothing is recorded from then on."""
        assert self._record is not None
        ids, masked = ids_BL.clone(), masked_BL.clone()
        try:
            replay = self._record(lambda: self._model.logits(ids, masked, condition))
        except RuntimeError:  # a part of a plug-in's that reads back, a driver without graphs: slower is right too
            self._record = None
            return False
        self._replays[key] = (ids, masked, replay)
        return True
