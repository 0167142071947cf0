"""Our decoding step against the recording, from each recorded step's input: samples, and the next step's input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.generation.loop import decode_step
from mage_kit.models.decoding import Decoding
from mage_kit.selections import SelectionStep
from tests.parity.recording import Recording, recording

NEAR = 1e-4  # confidences closer than this to the cut may be swapped


@pytest.fixture
def recorded() -> Recording:
    return recording()


class Spy(mk.GumbelConfidence):
    """Remembers the scores that it gave."""

    scores: Tensor

    def score(self, step: SelectionStep) -> Tensor:
        self.scores = super().score(step)
        return self.scores


def test_counts_of_the_schedule(recorded: Recording) -> None:
    """Ours ends in 0; the published code computes max(1, 0) = 1 in the last step and ignores it."""
    generation = recorded.sizes["generation"]
    counts = mk.CosineSchedule().counts(recorded.ids.shape[1], generation["steps"])
    assert counts == [*generation["mask_lengths"][:-1], 0]


def uniform_for(log_p_BLV: Tensor, ids_BL: Tensor) -> Tensor:
    """The uniform number whose inverse CDF is the recorded token: the middle of its interval."""
    cdf = log_p_BLV.double().exp().cumsum(dim=-1)
    above = cdf.gather(-1, ids_BL[:, :, None])[..., 0]
    below = torch.where(ids_BL > 0, cdf.gather(-1, (ids_BL - 1).clamp_min(0)[:, :, None])[..., 0], 0.0)
    assert bool((above > below).all()), "a recorded token has no probability"
    return (above + below) / 2 / cdf[..., -1]


@pytest.mark.parametrize("kind", ["greedy", "stochastic"])
def test_every_step_follows_from_the_recorded_input(recorded: Recording, kind: str) -> None:
    """Greedy: our argmax is the recorded sample. Stochastic: given sample and Gumbel noise, our step gives the next."""
    model, generation, tensors = recorded.model, recorded.sizes["generation"], recorded.tensors
    steps, mask_id = generation["steps"], recorded.sizes["mask_token_label"]
    inputs = [*tensors[f"gen_{kind}_inputs"].long(), tensors[f"gen_{kind}_final"].long()]
    sampled = tensors[f"gen_{kind}_sampled"].long()
    choice = Spy(temperature=generation["temperature"] if kind == "stochastic" else 0.0)
    plan = Decoding(mk.CosineSchedule(), choice, steps)
    unknown_B = torch.full((len(inputs[0]),), inputs[0].shape[1])
    assert len(sampled) == steps and bool((inputs[0] == mask_id).all())
    for step in range(1, steps + 1):
        tokens, draws = inputs[step - 1], sampled[step - 1]
        masked = tokens == mask_id
        draws = torch.where(masked, draws, 0)
        with torch.no_grad():
            log_p = model.logits(tokens, masked).log_softmax(dim=-1)
        if kind == "greedy":
            assert torch.equal(log_p.argmax(dim=-1)[masked], draws[masked]), f"step {step}"
        noise = torch.full(masked.shape, 0.5, dtype=torch.float64)
        if kind == "stochastic":  # the uniform number that our selection turns into the recorded noise
            noise = (-(-tensors["gen_stochastic_gumbel"][step - 1].double()).exp()).exp()
        both = torch.cat([uniform_for(log_p, draws), noise], dim=1)
        ids, still = decode_step(model, plan, step, tokens, masked, unknown_B, both)
        assert torch.equal(ids[masked], draws[masked]) and torch.equal(ids[~masked], tokens[~masked])
        near = near_the_cut(choice.scores, masked, still)
        expected = inputs[step]
        assert torch.equal(torch.where(still, mask_id, ids)[~near], expected[~near]), f"step {step}"
        assert torch.equal(still.sum(1), (expected == mask_id).sum(1)), f"step {step}"
        assert float(near.double().mean()) < 0.02, "too much is too near the cut to have been compared"
    assert bool((inputs[-1] < model.spec.codes).all())


def near_the_cut(score_BL: Tensor, masked_BL: Tensor, still_BL: Tensor) -> Tensor:
    """Positions whose confidence could fall on either side of the cut by rounding alone."""
    near = torch.zeros_like(masked_BL)
    for row in range(len(score_BL)):
        kept = masked_BL[row] & ~still_BL[row]
        if bool(still_BL[row].any()) and bool(kept.any()):
            below, above = score_BL[row][still_BL[row]].max(), score_BL[row][kept].min()
            if float(above - below) < NEAR:
                near[row] = masked_BL[row] & ((score_BL[row] - below).abs() < NEAR)
    return near
