"""Decoding against the recording, from each recorded step's input: sampled tokens, confidence, next step's input."""

from __future__ import annotations

import pytest
import torch
from mage_kernels import remask
from torch import Tensor

import mage_kit as mk
from mage_kit.selections import SelectionStep
from tests.parity.recording import Recording, recording

NEAR = 1e-4  # confidences closer than this to the cut may be swapped


@pytest.fixture
def recorded() -> Recording:
    return recording()


def steps(recorded: Recording, kind: str) -> tuple[list[Tensor], Tensor]:
    """Inputs of all steps and the final ids; and what was sampled."""
    tensors = recorded.tensors
    inputs = [*tensors[f"gen_{kind}_inputs"].long(), tensors[f"gen_{kind}_final"].long()]
    return inputs, tensors[f"gen_{kind}_sampled"].long()


def test_counts_of_the_schedule(recorded: Recording) -> None:
    """Ours ends in 0; the published code computes max(1, 0) = 1 in the last step and ignores it."""
    generation = recorded.sizes["generation"]
    counts = mk.CosineSchedule().counts(recorded.ids.shape[1], generation["steps"])
    assert counts == [*generation["mask_lengths"][:-1], 0]


def next_input(
    recorded: Recording, tokens: Tensor, sampled: Tensor, score: Tensor, masked: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """The input of the next step, and which positions lie too near the cut to compare."""
    total = recorded.sizes["generation"]["steps"]
    filled = torch.where(masked, sampled, tokens)
    unknown = torch.full((len(tokens),), tokens.shape[1])
    count = mk.CosineSchedule().next_counts(unknown, masked.sum(1), step, total)
    again = remask(score, masked, count)
    near = torch.zeros_like(masked)
    for row in range(len(tokens)):
        if int(count[row]) > 0:
            ordered = score[row][masked[row]].sort().values
            below, above = ordered[int(count[row]) - 1], ordered[int(count[row])]
            if float(above - below) < NEAR:
                near[row] = (score[row] - below).abs() < NEAR
    return torch.where(again, recorded.sizes["mask_token_label"], filled), near


@pytest.mark.parametrize("kind", ["greedy", "stochastic"])
def test_every_step_follows_from_the_recorded_input(recorded: Recording, kind: str) -> None:
    model, generation = recorded.model, recorded.sizes["generation"]
    inputs, sampled = steps(recorded, kind)
    tau = generation["temperature"] if kind == "stochastic" else 0.0
    choice = mk.GumbelConfidence(temperature=tau)
    assert len(sampled) == generation["steps"]
    for step in range(1, generation["steps"] + 1):
        tokens = inputs[step - 1]
        masked = tokens == recorded.sizes["mask_token_label"]
        with torch.no_grad():
            log_p = model.logits(tokens, masked).log_softmax(dim=-1)
        draws = sampled[step - 1]
        if kind == "greedy":
            assert torch.equal(log_p.argmax(dim=-1)[masked], draws[masked]), f"step {step}"
        else:
            assert bool((log_p.gather(-1, draws[:, :, None])[..., 0][masked] > -torch.inf).all())
        confidence = log_p.gather(-1, torch.where(masked, draws, 0)[:, :, None])[..., 0]
        uniform = torch.full(masked.shape, 0.5, dtype=torch.float64)
        if kind == "stochastic":  # the uniform number that ours turns into the recorded noise
            uniform = (-(-recorded.tensors["gen_stochastic_gumbel"][step - 1].double()).exp()).exp()
        score = choice.score(SelectionStep(step, generation["steps"], model.spec.grid, confidence, uniform))
        ours, near = next_input(recorded, tokens, draws, score, masked, step)
        assert torch.equal(ours[~near], inputs[step][~near]), f"step {step}"
        assert torch.equal((ours == recorded.sizes["mask_token_label"]).sum(1),
                           (inputs[step] == recorded.sizes["mask_token_label"]).sum(1)), f"step {step}"  # fmt: skip
    assert bool((inputs[-1] < model.spec.codes).all())
