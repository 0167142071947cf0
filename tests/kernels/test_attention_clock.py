"""What the choice of attention is measured on: a GPU's own time, of what a block gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from mage_kernels import attention_choice
from mage_kernels.attention_choice import seconds_of
from torch import Tensor


class Events:
    """Stands in for CUDA's events: notes what happens between them."""

    log: ClassVar[list[str]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.log.append("event")

    def synchronize(self) -> None:
        self.log.append("wait")

    def elapsed_time(self, other: Events) -> float:
        return 40.0  # milliseconds


def test_twenty_calls_between_two_events_after_warm_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def current(device: torch.device) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "Event", Events)
    monkeypatch.setattr(torch.cuda, "device", current)
    Events.log.clear()
    assert seconds_of(lambda: Events.log.append("call"), torch.device("cuda")) == pytest.approx(0.002)
    assert Events.log == ["call"] * 3 + ["event"] + ["call"] * 20 + ["event", "wait"], "nothing waits in between"


def test_the_shortest_call_counts_on_a_cpu() -> None:
    calls: list[int] = []
    assert 0 <= seconds_of(lambda: calls.append(1), torch.device("cpu")) < 1
    assert len(calls) == 5


def test_inputs_are_laid_out_as_a_block_lays_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of one product (B, N, 3, H, d); the whole batch; a gradient that is no expanded number."""
    seen: list[Any] = []

    def spy(query: Tensor, key: Tensor, value: Tensor, **words: Any) -> Tensor:
        out = query * 1
        out.register_hook(seen.append)
        seen[:0] = [query, key, value]
        return out + 0 * key + 0 * value

    monkeypatch.setattr(attention_choice, "attention", spy)
    shape = (70, 2, 5, 8)
    attention_choice._seconds("sdpa", torch.device("cpu"), torch.float32, shape, 0.0, True, calls=1)
    *inputs, grad = seen
    for part in inputs:
        assert tuple(part.shape) == shape and part.stride() == (5 * 3 * 16, 8, 3 * 16, 1)
    assert len({part.untyped_storage().data_ptr() for part in inputs}) == 1
    assert 0 not in grad.stride() and grad.unique().numel() > 100
