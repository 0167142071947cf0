"""Masked pixels, predicted so that a network that tells pictures apart takes them for real: MAE with a GAN loss.

How MAE's authors trained the file that they released for pictures was not published (supplement, Table 2 probes it):
this form is ours. The picture that is judged has the predicted patches where patches were hidden, and the true ones
elsewhere; predictions of normalised patches get the true patch's mean and deviation back first.

Legend: B images, L tokens, M rows of the loss, W values of a token, U uniforms an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mage_kit.adversaries import AdversarySlot, Change, Contest
from mage_kit.adversaries.differentiable_augment import DRAWS
from mage_kit.base.draws import keys, uniforms
from mage_kit.base.fields import LearningRate, NonNegativeFloat, PositiveFloat, Probability
from mage_kit.losses import Loss
from mage_kit.models import Mage
from mage_kit.optimizers import build_optimizer
from mage_kit.tokenizers import TOKENS
from mage_kit.training.batches import Batch
from mage_kit.training.players import Player, Rate
from mage_kit.training.tasks.base import TASKS
from mage_kit.training.tasks.context import Context, Facts, TrainingStep
from mage_kit.training.tasks.game import (
    CONTEST_ADAMW,
    PUBLISHED_ADVERSARY,
    Game,
    adversary_of,
    adversary_problems,
    death,
    listening,
    share_right,
)
from mage_kit.training.tasks.masked import Masked
from mage_kit.training.tasks.pieces import Piece


@TASKS.register("masked_adversarial")
class MaskedAdversarial(Masked):
    """As masked, for a model of pixels, with an adversary that judges pictures with its predictions in them.

    Args:
        adversary: The network that judges.
        adversary_lr: Its peak learning rate, whatever the batch.
        contest: What both play for: hinge (half of it, as published), non_saturating, vanilla.
        adversarial_weight: Of the model's part.
        listens_from: Share of the steps from which the model listens to the adversary.
        ramp: Share of the steps over which it comes to do so in full.
        lecam: Weight of LeCam's regularisation of the adversary; 0: none.
        gradient_penalty: Weight of R1, the squared gradient of its judgements at real pictures; 0: none.
        augment: Changes before pictures are judged (DiffAugment), for small data.
    """

    def __init__(
        self,
        model: Mage,
        *,
        adversary: AdversarySlot = PUBLISHED_ADVERSARY,
        adversary_lr: LearningRate = 1e-4,
        contest: Contest = "hinge",
        adversarial_weight: PositiveFloat = 0.01,
        listens_from: Probability = 0.1,
        ramp: Probability = 0.1,
        lecam: NonNegativeFloat = 0.001,
        gradient_penalty: NonNegativeFloat = 0.0,
        augment: tuple[Change, ...] = (),
        **shared: Any,
    ) -> None:
        super().__init__(model, **shared)
        self.adversary, self.adversary_lr, self.contest = adversary, adversary_lr, contest
        self.adversarial_weight, self.listens_from, self.ramp = adversarial_weight, listens_from, ramp
        self.lecam, self.gradient_penalty, self.augment = lecam, gradient_penalty, augment

    # -- before the run ----------------------------------------------------------------------------------------

    def problems(self, facts: Facts) -> list[str]:
        """A model that predicts no pixels; pictures too small for the adversary; shards, which two players have not."""
        problems = super().problems(facts)
        if self.shard:
            problems.append(f"{facts.path}.shard: true, must be false with two players")
        if not self.model.predicts_values:
            rule = "must be masked: nothing here gives pixels back that could be judged"
            problems.append(f"{facts.path}.kind and $.model: 'masked_adversarial', {rule}")
        problems += adversary_problems(f"{facts.path}.adversary", self.adversary, self.model.tokenizer)
        return problems

    # -- at its start ------------------------------------------------------------------------------------------

    def enter(self, context: Context) -> None:
        """Make the adversary, drawn from the run's seed."""
        super().enter(context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            adversary = adversary_of(self.adversary, self.model.tokenizer)
            self.judge = Game(adversary, self.contest, self.lecam, self.gradient_penalty, self.augment)

    def players(self) -> Sequence[Player]:
        """Return the model, and the adversary after it, which judges what the model filled in."""
        span = self.span.warm_up(self.context.steps_per_epoch)
        rate = Rate(self.adversary_lr, span, min(self.min_lr, self.adversary_lr))
        judge = Player("adversary", self.judge, rate, build_optimizer(CONTEST_ADAMW), clip=self.clip)
        return [*super().players(), judge]

    # -- steps -------------------------------------------------------------------------------------------------

    def cut(self, batch: Batch, step: TrainingStep) -> list[Piece]:
        """Cut a batch; with draws that follow the images."""
        pieces = super().cut(batch, step)
        draws_BU = uniforms(keys(step.seed, "augment", batch.index_B, batch.epoch), DRAWS)
        for piece, uniforms_BU in zip(pieces, draws_BU.split(self.context.layout.micro), strict=True):
            piece.uniforms_BU = uniforms_BU
        self._passes = len(pieces)
        return pieces

    def prepare(self, micro: Piece, step: TrainingStep) -> Piece:
        """Tokenise, and plan the masks."""
        piece = super().prepare(micro, step)
        piece.uniforms_BU = piece.uniforms_BU.to(self.context.device)
        return piece

    def objective(self, player: str, work: Any, step: TrainingStep) -> Tensor:
        """Return what a player minimises."""
        if player == "adversary":
            images_BCHW = self.model.tokenizer.decode(work.tokens[TOKENS])
            return self.judge.tell_apart(images_BCHW, work.filled_BCHW, work.uniforms_BU, self._passes, self.tally)
        predictions: list[Tensor] = []
        hook = self.model.heads[TOKENS].register_forward_hook(lambda head, inputs, outputs: predictions.append(outputs))
        try:
            total = super().objective(player, work, step)
        finally:
            hook.remove()
        filled_BCHW = self.model.tokenizer.decode(self._filled(work, predictions[0].float()))
        work.filled_BCHW = filled_BCHW.detach()
        weight = self.adversarial_weight * listening(step.progress, self.listens_from, self.ramp)
        if not weight:
            return total
        deceiving = self.judge.deceive(filled_BCHW, work.uniforms_BU)
        self.tally("deceiving", deceiving)
        return total + weight * deceiving

    def _filled(self, work: Piece, predicted_MW: Tensor) -> Tensor:
        """Tokens (B, L, W) with the predictions in the hidden places; rows that only fill up the shape change none."""
        tokens_BLW, plan = work.tokens[TOKENS].float(), work.plan
        flat_TW = tokens_BLW.flatten(0, 1)
        true_MW = flat_TW.index_select(0, plan.picked_M)
        loss = next(loss for loss in self.model.losses if isinstance(loss, Loss) and loss.reads_predictions)
        change_MW = (loss.token_values(predicted_MW, true_MW) - true_MW) * plan.weight_M[:, None]
        filled_BLW: Tensor = flat_TW.index_add(0, plan.picked_M, change_MW).view_as(tokens_BLW)
        return filled_BLW

    # -- what is said of it ------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """Return the metrics; say so where the adversary has died."""
        record = super().read()
        if words := death(record):
            self.context.reporter.say(words)
        return record

    def note(self, record: Mapping[str, Any]) -> str:
        """Say how often the adversary is right, too."""
        return super().note(record) + share_right(record)
