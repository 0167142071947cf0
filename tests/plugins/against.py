"""A task with two players, written outside of mage_kit: a tokenizer, and a critic that tells its images from real."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

import mage_kit as mk


@mk.TASKS.register("against")
class Against(mk.Task):
    """A tokenizer learns to reconstruct, and to pass for real with a critic that learns beside it (hinge loss).

    Args:
        steps: Optimizer steps.
        lr: Peak learning rate of both.
        weight: Of the critic's word in the tokenizer's objective.
        critic_from: First step of the critic.
    """

    stage, makes, model_kind = "tokenizer", "tokenizer", None

    def __init__(
        self, tokenizer: mk.Tokenizer, *, steps: mk.Positive, lr: mk.PositiveFloat = 2e-3,
        weight: mk.NonNegativeFloat = 0.02, critic_from: mk.NonNegative = 0,
    ) -> None:  # fmt: skip
        self.tokenizer, self.steps, self.lr, self.weight, self.critic_from = tokenizer, steps, lr, weight, critic_from
        layers = [nn.Conv2d(tokenizer.channels, 8, 4, 2, 1), nn.SiLU(), nn.GroupNorm(2, 8), nn.Conv2d(8, 1, 4, 2, 1)]
        self.critic = nn.Sequential(*layers)

    def length(self, steps_per_epoch: int) -> int:
        return self.steps

    def players(self) -> Sequence[mk.Player]:
        critic = mk.Player(
            "critic", self.critic, mk.Rate(self.lr), mk.AdamW(betas=(0.5, 0.9)), first_step=self.critic_from
        )
        return [mk.Player("tokenizer", self.tokenizer, mk.Rate(self.lr, 5), clip=1.0), critic]

    def objective(self, player: str, work: Tensor, step: mk.TrainingStep) -> Tensor:
        if player == "critic":
            real, fake = self.critic(work), self.critic(self.rebuilt)
            loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            self.tally("critic", loss)
            return loss
        losses = self.tokenizer.objective(work, step.progress, step.generator("restart"))
        self.rebuilt = losses.rebuilt.detach()
        for name, value in losses.parts.items():
            self.tally(name, value)
        return losses.total - self.weight * self.critic(losses.rebuilt).mean()
