"""A pass recorded once and replayed: when, over which inputs, and what happens where it cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.generation.graphs import MOST_IMAGES, Passes
from mage_kit.layers.condition import Condition
from tests import build


class Recorder:
    """Stands in for CUDA graphs: a replay repeats the pass over the tensors that it was recorded with."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.recorded, self.replayed = works, 0, 0

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        if not self.works:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay() -> Tensor:
            self.replayed += 1
            return run()

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
def test_what_cannot_be_recorded_is_computed_as_before() -> None:
    model, record = build.mage().eval(), Recorder(works=False)
    passes = Passes(model, 2, record)
    for number in range(4):
        ids, masked = inputs(model, number)
        assert torch.equal(passes(ids, masked), model.logits(ids, masked))
    assert record.recorded == 1, "it is tried once"


def test_nothing_is_recorded_on_a_cpu_or_for_many_images() -> None:
    model = build.mage().eval()
    assert Passes(model, 1)._record is None and Passes(model, MOST_IMAGES + 1)._record is None
