"""What two players play: an adversary, the losses of both sides, and what keeps the adversary in bounds.

Tasks that give pictures back share it. Legend: B images, C channels, H x W pixels, U uniforms an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mage_kit.adversaries import (
    Adversary,
    Change,
    Contest,
    LeCam,
    augment,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from mage_kit.adversaries.batch_statistics import without_statistics

DEAD = 1e-3  # of the spread of judgements


class Game(nn.Module):
    """An adversary with what it remembers; all of it is in checkpoints.

    Args:
        adversary: The network that judges.
        contest: What both play for.
        lecam: Weight of LeCam's regularisation; 0: none.
        penalty: Weight of R1; 0: none.
        changes: Before pictures are judged (DiffAugment).
    """

    def __init__(
        self, adversary: Adversary, contest: Contest, lecam: float, penalty: float, changes: Sequence[Change]
    ) -> None:
        super().__init__()
        self.adversary = adversary
        self.contest, self.weight, self.penalty, self.changes = contest, lecam, penalty, tuple(changes)
        self.lecam = LeCam() if lecam > 0 else None

    def deceive(self, rebuilt_BCHW: Tensor, uniforms_BU: Tensor) -> Tensor:
        """Return what the generator minimises, a scalar; the adversary's own statistics stay as they are."""
        with without_statistics(self.adversary):
            return generator_loss(self.contest, self.judgements(rebuilt_BCHW, uniforms_BU))

    def tell_apart(
        self,
        images_BCHW: Tensor,
        rebuilt_BCHW: Tensor,
        uniforms_BU: Tensor,
        passes: int,
        tally: Callable[[str, Tensor], None],
    ) -> Tensor:
        """Return what the adversary minimises, a scalar.

        Args:
            images_BCHW: float images in [0, 1].
            rebuilt_BCHW: What was given back, without gradients.
            uniforms_BU: What the changes follow.
            passes: Of a step in this process.
            tally: Told of the metrics.
        """
        images_BCHW = images_BCHW.clone().requires_grad_(self.penalty > 0)
        # Both in one pass: a batch norm then sees what it will be used on.
        both = self.judgements(torch.cat([images_BCHW, rebuilt_BCHW]), uniforms_BU)
        real, rebuilt = both.chunk(2)
        loss = discriminator_loss(self.contest, real, rebuilt)
        tally("adversary_loss", loss)
        tally("judgement_real", real.mean())
        tally("judgement_rebuilt", rebuilt.mean())
        tally("judgement_spread", both.detach().std(correction=0))
        tally("accuracy", 0.5 * ((real > 0).float().mean() + (rebuilt < 0).float().mean()))
        if self.lecam is not None:
            cost = self.lecam(real, rebuilt, passes)
            tally("lecam", cost)
            loss = loss + self.weight * cost
        if self.penalty:
            penalty = gradient_penalty(images_BCHW, real)
            tally("gradient_penalty", penalty)
            loss = loss + self.penalty * penalty
        return loss

    def judgements(self, images_BCHW: Tensor, uniforms_BU: Tensor) -> Tensor:
        """Return judgements in float32; pictures and reconstructions, one after the other, are changed alike."""
        if self.changes:
            times = len(images_BCHW) // len(uniforms_BU)
            images_BCHW = augment(images_BCHW, uniforms_BU.repeat(times, 1), self.changes)
        judgements: Tensor = self.adversary(images_BCHW)
        return judgements.float()


def listening(progress: float, start: float, ramp: float) -> float:
    """Return how much the other player listens to the adversary, in [0, 1].

    Args:
        progress: Share of the training done.
        start: Share from which it listens at all.
        ramp: Share over which it comes to do so in full.
    """
    if progress < start:
        return 0.0
    return min(1.0, (progress - start) / ramp) if ramp else 1.0
