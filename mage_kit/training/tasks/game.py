"""What two players play: an adversary, the losses of both sides, and what keeps the adversary in bounds.

Tasks that give pictures back share it. Legend: B images, C channels, H x W pixels, U uniforms an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.adversaries import (
    ADVERSARIES,
    Adversary,
    AdversaryWires,
    Change,
    Contest,
    LeCam,
    augment,
    build_adversary,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from mage_kit.adversaries.batch_statistics import without_statistics
from mage_kit.base.signature import ComponentConfig
from mage_kit.optimizers import OPTIMIZERS
from mage_kit.tokenizers import Tokenizer

CONTEST_ADAMW = OPTIMIZERS.parse({"kind": "adamw", "weight_decay": 0.0, "betas": [0.5, 0.9]})
PUBLISHED_ADVERSARY = ADVERSARIES.parse({"kind": "vqgan_plus"})
_DEAD = 1e-3  # of the spread of judgements


def adversary_of(config: ComponentConfig, tokenizer: Tokenizer) -> Adversary:
    """Return the adversary of a tokenizer's pictures.

    Raises:
        ValueError: If they are too small for it.
    """
    return build_adversary(config, AdversaryWires.of(tokenizer))


def adversary_problems(path: str, config: ComponentConfig, tokenizer: Tokenizer) -> list[str]:
    """Return a line if pictures are too small for an adversary; built without memory."""
    try:
        with torch.device("meta"):
            adversary_of(config, tokenizer)
    except ValueError as error:
        return [f"{path}: {error}"]
    return []


def death(record: Mapping[str, Any]) -> str:
    """Return a line on an adversary whose judgements have all become one; nothing of one that lives."""
    if record.get("judgement_spread", 1.0) >= _DEAD:
        return ""
    return (
        f"warning: the adversary is dead: its loss is {record['adversary_loss']:.4f} and every judgement "
        f"{record['judgement_real']:.4f}, so that nothing is learned from it; lower adversary_lr, or raise lecam"
    )


def share_right(record: Mapping[str, Any]) -> str:
    """Return how often an adversary is right, for the progress line; nothing where it did not play."""
    return f"  adversary right {record['accuracy']:.0%}" if "adversary_loss" in record else ""


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
