"""Contrast alone: encoder and projection learn from two views of each image, and nothing is predicted.

SimCLR on tokens, and the paper's "contrastive loss only" (supplement, Table 7): no decoder is built, no head; masks may
be empty.
"""

from __future__ import annotations

from mage_kit.base.fields import LearningRate, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.losses import Loss
from mage_kit.models import Mage
from mage_kit.optimizers import OptimizerSlot
from mage_kit.training.tasks.base import PUBLISHED_ADAMW, TASKS
from mage_kit.training.tasks.context import Facts
from mage_kit.training.tasks.masked import Masked


@TASKS.register("contrast")
class Contrast(Masked):
    """An encoder learns from its losses on features alone.

    Args:
        epochs: Passes over the data; null where `steps` says how long.
        warmup_epochs: Epochs of linear warm-up; null where `warmup_steps` says how long.
        steps: Optimizer steps, instead of epochs.
        warmup_steps: Steps of linear warm-up, instead of epochs.
        base_lr: Learning rate at a batch of 256: the peak is base_lr x batch / 256.
        min_lr: Learning rate at the end of the cosine, whatever the batch.
        optimizer: What moves the weights.
        clip: Largest global gradient norm; null: no clipping.
        ema: Decay of a running mean of the model's weights, warmed up; null: no such mean.
        shard: Over several processes, shard weights, gradients and optimizer state (FSDP2).
    """

    def __init__(
        self,
        model: Mage,
        *,
        epochs: PositiveFloat | None = None,
        warmup_epochs: NonNegativeFloat | None = None,
        steps: Positive | None = None,
        warmup_steps: NonNegative | None = None,
        base_lr: LearningRate = 1.5e-4,
        min_lr: NonNegativeFloat = 0.0,
        optimizer: OptimizerSlot = PUBLISHED_ADAMW,
        clip: PositiveFloat | None = 3.0,
        ema: Probability | None = None,
        shard: bool = False,
    ) -> None:
        super().__init__(
            model, epochs=epochs, warmup_epochs=warmup_epochs, steps=steps, warmup_steps=warmup_steps,
            base_lr=base_lr, min_lr=min_lr, optimizer=optimizer, clip=clip, ema=ema, shard=shard,
        )  # fmt: skip

    def problems(self, facts: Facts) -> list[str]:
        """Losses on predictions, and a decoder that nobody would read."""
        problems = super().problems(facts)
        for number, loss in enumerate(self.model.losses):
            if isinstance(loss, Loss) and loss.reads_predictions:
                rule = "leave the loss out, or take the task masked"
                line = "the loss reads predictions, and contrast predicts nothing"
                problems.append(f"$.model.losses[{number}] and {facts.path}.kind: {line}; {rule}")
        if self.model.decoder is not None:
            problems.append(f"$.model.decoder and {facts.path}.kind: nothing reads a decoder here, must be null")
        return problems

    def _learns_nothing(self, facts: Facts) -> list[str]:
        """Nothing is predicted, and that is as it should be; but something must be learned."""
        return [] if len(self.model.losses) else ["$.model.losses: none given, must be at least one"]
