"""A pass recorded once and replayed: when, over which inputs, and what happens where it cannot be recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.generation import graphs, loop
from mage_kit.generation.graphs import MOST_IMAGES, Passes
from mage_kit.layers.condition import Condition
from tests import build


class Recorder:
    """Stands in for CUDA graphs: a replay repeats the pass over the tensors that it was recorded with."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.recorded, self.replayed = works, 0, 0

    def __call__(self, run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        self.recorded += 1
        if not self.works:
            raise RuntimeError("operation not permitted when stream is capturing")
        output = torch.empty_like(run())

        def replay() -> Tensor:
            self.replayed += 1
            return output.copy_(run())  # the same memory each time, as a graph's

        return replay


class Labelled:
    """A model that is told labels: its logits are the guidance."""

    device = torch.device("cpu")

    def logits(
        self, ids: Tensor, masked: Tensor, condition: Condition, rows: Any = None, guidance: float = 0
    ) -> Tensor:
        assert condition.labels_B is not None
        return torch.tensor(float(guidance))


def inputs(model: mk.Mage, number: int, images: int = 2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(number)
    ids = torch.randint(model.spec.codes or 1, (images, 16), generator=random)
    return ids, torch.rand(images, 16, generator=random) < 0.5


@torch.no_grad()
def test_the_second_pass_of_a_form_is_recorded_and_later_ones_replayed() -> None:
    model, record = build.mage().eval(), Recorder()
    passes = Passes(model, 2, record)
    for number in range(5):
        ids, masked = inputs(model, number)
        assert torch.equal(passes(ids, masked), model.logits(ids, masked))
    assert (record.recorded, record.replayed) == (1, 4)
    for number in range(3):  # another batch is another form
        ids, masked = inputs(model, number, 1)
        assert torch.equal(passes(ids, masked), model.logits(ids, masked))
    assert (record.recorded, record.replayed) == (2, 6)


@torch.no_grad()
def test_passes_over_some_rows_or_guided_ones_are_not_recorded() -> None:
    model, record = build.mage().eval(), Recorder()
    passes = Passes(model, 2, record)
    rows = torch.tensor([1, 3, 20])
    for number in range(3):
        ids, masked = inputs(model, number)
        assert torch.equal(passes(ids, masked, None, rows), model.logits(ids, masked, None, rows))
    labelled = Labelled()
    passes, condition = Passes(labelled, 2, record), Condition(torch.zeros(2, dtype=torch.int64))  # type: ignore[arg-type]
    for guidance in (1.5, 1.5, 1.5):
        assert float(passes(ids, masked, condition, None, guidance)) == guidance
    assert record.recorded == 0
    assert [float(passes(ids, masked, condition)) for _ in range(3)] == [0.0] * 3 and record.recorded == 1


@torch.no_grad()
def test_what_cannot_be_recorded_is_computed_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, record = build.mage().eval(), Recorder(works=False)
    passes = Passes(model, 2, record)
    monkeypatch.setattr(graphs, "_failed", threading.Event())
    pairs = [inputs(model, number) for number in range(4)]
    with pytest.warns(RuntimeWarning, match="runs as it is written .operation not permitted"):
        logits = [passes(*pair) for pair in pairs]
    assert all(torch.equal(one, model.logits(*pair)) for one, pair in zip(logits, pairs, strict=True))
    assert record.recorded == 1, "it is tried once"
    assert Passes(OnCuda(), 1)._record is None, "nor again in this process"  # type: ignore[arg-type]


@torch.no_grad()
def test_a_decoding_by_replays_is_that_by_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows, as on a GPU: nothing that a replay overwrites may be kept from one step to the next."""
    model, record = build.mage().eval(), Recorder()
    draw = loop.draw_tokens
    monkeypatch.setattr(loop, "draw_tokens", lambda *words: draw(*words[:8], False, *words[9:]))
    plain = mk.generate(model, 3, steps=6, seed=5)
    monkeypatch.setattr(loop, "Passes", lambda model, images: Passes(model, images, record))
    replayed = mk.generate(model, 3, steps=6, seed=5)
    assert record.replayed == 4 and torch.equal(plain.ids_BL, replayed.ids_BL)
    assert torch.equal(plain.log_p_BL, replayed.log_p_BL)


class OnCuda:
    device = torch.device("cuda")


def test_graphs_are_for_cuda_and_few_images() -> None:
    assert Passes(build.mage().eval(), 1)._record is None
    sizes = {count: Passes(OnCuda(), count)._record for count in (1, MOST_IMAGES, MOST_IMAGES + 1)}  # type: ignore[arg-type]
    assert sizes == {1: graphs.record_on_cuda, MOST_IMAGES: graphs.record_on_cuda, MOST_IMAGES + 1: None}
