"""Bugs that users of other projects met, re-created: the contract suite must catch each.

A check that passes a mutant would be a check that cannot fail.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mage_kernels import MaskPlan
from torch import Tensor

import mage_kit as mk
from mage_kit.generation import loop as decoding
from mage_kit.layers.embedding import TokenEmbedding
from mage_kit.models.mage import Mage
from mage_kit.selections import SelectionStep
from mage_kit.training.tasks import masked
from tests import build
from tests.contracts import checks


def caught(message: str) -> Any:
    """Expect the contract suite to fail for the right reason."""
    return pytest.raises(AssertionError, match=message)


def test_loss_on_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """MaskGIT-pytorch #14: the loss was taken on visible tokens too."""
    plan = Mage.plan

    def everything(self: Mage, ratio: Tensor, noise: Tensor) -> Any:
        made = plan(self, ratio, noise)
        size = noise.numel()
        return type(made)(**{**vars(made), "picked_M": torch.arange(size), "weight_M": torch.ones(size), "total": size})

    monkeypatch.setattr(Mage, "plan", everything)
    with caught("rows of the loss are not"):
        checks.masked_only(build.mage())


def _embed_with(monkeypatch: pytest.MonkeyPatch, hide: Callable[[Tensor], Tensor]) -> None:
    """Let the embedding hide other tokens than the plan's masked ones."""
    codes = TokenEmbedding._codes

    def mutant(self: TokenEmbedding, ids: Tensor, plan: MaskPlan) -> Tensor:
        return codes(self, ids, dataclasses.replace(plan, masked_BL=hide(plan.masked_BL)))

    monkeypatch.setattr(TokenEmbedding, "_codes", mutant)


def test_the_model_saw_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """muse-maskgit-pytorch #11: masked tokens went in as they were."""
    _embed_with(monkeypatch, torch.zeros_like)
    with caught("targets leak"):
        checks.no_leak(build.mage(drop=0.0, padding=mk.ClassTokenPadding(replace_seen=False)))


def test_the_mask_is_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_brain PR 74: the polarity was another one in one place."""
    _embed_with(monkeypatch, torch.logical_not)
    with caught("targets leak"):
        checks.no_leak(build.mage(drop=0.0, padding=mk.ClassTokenPadding(replace_seen=False)))


def test_the_mask_is_inverted_in_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the decoder's half: masked tokens keep their own feature, visible ones are replaced."""
    monkeypatch.setattr(MaskPlan, "visible_BN", property(lambda plan: F.pad(plan.masked_BL, (1, 0))))
    with caught("close"):
        checks.padding(mk.ClassTokenPadding())


def test_one_attention_form_alone_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_brain PR 74, as it happened: only one attention backend was wrong, and no test ran it."""
    forms = importlib.import_module("mage_kernels.attention")

    def wrong(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        return forms._reference(query, key, value, dropout) + leaked[0]

    embed, leaked = TokenEmbedding._codes, [0.0]

    def spying(self: TokenEmbedding, ids: Tensor, plan: MaskPlan) -> Tensor:
        leaked[0] = float(ids.double().mean()) * 1e-2  # hidden ids among them, seen by one form alone
        return embed(self, ids, plan)

    monkeypatch.setattr(TokenEmbedding, "_codes", spying)
    monkeypatch.setitem(forms._FORMS, "matmul", wrong)
    with caught("leak into the predictions .matmul"):
        checks.no_leak(build.mage())


def test_known_tokens_are_sampled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halton-MaskGIT #36: a step replaced tokens that were decided."""
    keep = decoding._keep_best

    def over_all(model: Any, plan: Any, step: int, ids: Tensor, masked: Tensor, *rest: Any) -> Any:
        kept, still, broken = keep(model, plan, step, ids, masked, *rest)
        return (rest[2].ids_BL if step > 1 else kept), still, broken

    monkeypatch.setattr(decoding, "_keep_best", over_all)
    with caught("known tokens changed"):
        checks.selection(mk.GumbelConfidence(), build.mage().eval())


def test_finished_tokens_score_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    """vall-e #9: known tokens got the lowest score and were masked again."""

    def lowest(score: Tensor, masked: Tensor, count: Tensor, **_: Any) -> Tensor:
        keyed = torch.where(masked, score.double(), -torch.inf)
        return keyed.argsort(1).argsort(1) < count[:, None]

    monkeypatch.setattr(decoding, "remask", lowest)
    with caught("known tokens changed|masked again"):
        checks.selection(mk.GumbelConfidence(), build.mage().eval())


def test_scores_are_meaningless() -> None:
    """soundstorm-pytorch #40: the scores did not rank the sampled tokens."""

    class Constant(mk.GumbelConfidence):
        def score(self, step: SelectionStep) -> Tensor:
            return torch.zeros_like(step.log_p_BL)

    with caught("scores do not rank"):
        checks.confidence(Constant(temperature=6.0))


def test_one_count_for_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published script took the first image's count for all rows."""
    counts = mk.CosineSchedule.next_counts

    def first(self: Any, unknown: Tensor, masked: Tensor, step: int, steps: int) -> Tensor:
        return counts(self, unknown, masked, step, steps)[:1].expand(len(masked))

    monkeypatch.setattr(mk.CosineSchedule, "next_counts", first)
    with caught("counts are not exact"):
        checks.selection(mk.GumbelConfidence(), build.mage().eval())


def test_cutoff_masks_too_many_on_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """`score <= cutoff` instead of ranks: ties break the count."""

    def cutoff(score: Tensor, masked: Tensor, count: Tensor, **_: Any) -> Tensor:
        keyed = torch.where(masked, (score * 2).round().double(), torch.inf)
        limit = keyed.sort(1).values.gather(1, (count - 1).clamp_min(0)[:, None])
        return masked & (keyed <= limit) & (count > 0)[:, None]

    monkeypatch.setattr(decoding, "remask", cutoff)
    with caught("counts are not exact"):
        checks.selection(mk.GumbelConfidence(temperature=0.0), build.mage().eval())


@pytest.mark.parametrize(
    ("forgets", "message"), [("epoch", "each epoch"), ("view", "both views"), ("index", "for each image")]
)
def test_the_same_mask_again(forgets: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MAE-pytorch #28: the mask followed too little, here in the code that training runs."""
    keys = masked.keys

    def forgetful(seed: int, purpose: str, index: Tensor, epoch: int, view: int) -> Tensor:
        index = torch.zeros_like(index) if forgets == "index" else index
        return keys(seed, purpose, index, 0 if forgets == "epoch" else epoch, 0 if forgets == "view" else view)

    monkeypatch.setattr(masked, "keys", forgetful)
    monkeypatch.setattr(masked.Masked, "ratios", lambda self, step, size: torch.full((size,), 0.6).double())
    with caught(message):
        checks.fresh_masks()


def test_ratio_outside_its_own_range() -> None:
    """A plug-in's distribution that forgets its bounds is caught by the contract, and named in training."""

    class Wild(mk.UniformRatio):
        def sample(self, count: int, generator: torch.Generator) -> Tensor:
            return torch.rand(count, generator=generator, dtype=torch.float64)

    with caught("draws leave their own range"):
        checks.mask_ratio(Wild(low=0.5))
    with pytest.raises(ValueError, match="mask_ratio: Wild drew"):
        build.mage(mask_ratio=Wild(low=0.5)).draw_ratios(100, torch.Generator().manual_seed(0))
