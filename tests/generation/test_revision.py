"""Selections that revise: tokens decoded before may be masked again, known ones never."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.selections import SelectionStep
from tests import build


class Revising(mk.GumbelConfidence):
    """Confidence over every token that was unknown at the start, those decoded before among them."""

    revises = True

    def score(self, step: SelectionStep) -> Tensor:
        self.seen.append(step.log_p_BL)
        return super().score(step)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[Tensor] = []


@pytest.mark.parametrize("rows", [True, False])
def test_tokens_decoded_before_may_be_masked_again_and_known_ones_never(
    rows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mage_kit.generation import loop as decoding

    draw = decoding.draw_tokens
    monkeypatch.setattr(decoding, "draw_tokens",
                        lambda *words: draw(*words[:8], rows, *words[9:]))  # fmt: skip
    model = build.sharpen(build.mage().eval())
    known, masked = build.tokens(model, 6), torch.rand(6, 16, generator=torch.Generator().manual_seed(3)) < 0.8
    rule = mk.Decoding(mk.CosineSchedule(), Revising(temperature=8.0), 8)
    made = mk.decode_tokens(model, known, masked, decoding=rule, trace=True)
    assert made.trace is not None
    again = [
        bool((later & ~earlier & masked).any())
        for earlier, later in zip(made.trace.masked_TBL[:-1], made.trace.masked_TBL[1:], strict=True)
    ]
    assert any(again), "nothing was ever revised"
    for step, still in enumerate(made.trace.masked_TBL, start=1):
        counts = [rule.schedule.counts(int(count), 8)[step - 1] for count in masked.sum(dim=1)]
        assert still.sum(dim=1).tolist() == counts and not bool((still & ~masked).any())
    assert torch.equal(made.ids_BL[~masked], known[~masked]) and not bool(made.log_p_BL[~masked].any())
    last = model.logits(made.trace.ids_TBL[-2], made.trace.masked_TBL[-2])
    standing = masked & ~made.trace.masked_TBL[-2]
    wanted = model.head.log_p(last, made.trace.ids_TBL[-2])
    torch.testing.assert_close(rule.selection.seen[-1][standing], wanted[standing], atol=1e-4, rtol=1e-4)
    plain = mk.decode_tokens(
        model, known, masked, decoding=mk.Decoding(mk.CosineSchedule(), mk.Halton(), 8), trace=True
    )
    assert plain.trace is not None
    assert not bool((plain.trace.masked_TBL[1:] & ~plain.trace.masked_TBL[:-1]).any())
