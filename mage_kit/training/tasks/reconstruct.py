"""A tokenizer learns to reconstruct images, by the objective that it has itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from mage_kit.base.fields import LearningRate, NonNegative, Positive, PositiveFloat
from mage_kit.optimizers import OPTIMIZERS, OptimizerSlot, build_optimizer, optimizer_config
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.players import Player, Rate
from mage_kit.training.tasks.base import TASKS, Task, layer_problems
from mage_kit.training.tasks.context import Facts, TrainingStep

TOKENIZER_ADAMW = OPTIMIZERS.parse({"kind": "adamw", "weight_decay": 0.0})


@TASKS.register("reconstruct")
class Reconstruct(Task):
    """A tokenizer learns to give back what it was given: warm-up, cosine to 0.

    Args:
        steps: Optimizer steps.
        lr: Peak learning rate.
        warmup_steps: Steps of linear warm-up.
        optimizer: What moves the weights.
        clip: Largest global gradient norm.
    """

    stage: ClassVar[str] = "tokenizer"
    makes: ClassVar[Literal["tokenizer", "model"]] = "tokenizer"
    model_kind: ClassVar[str | None] = None

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        steps: Positive,
        lr: LearningRate = 1e-3,
        warmup_steps: NonNegative = 50,
        optimizer: OptimizerSlot = TOKENIZER_ADAMW,
        clip: PositiveFloat = 1.0,
    ) -> None:
        self.tokenizer = tokenizer
        self.steps, self.lr, self.warmup_steps, self.clip = steps, lr, warmup_steps, clip
        self.optimizer = optimizer_config(optimizer)

    def problems(self, facts: Facts) -> list[str]:
        """Layer-wise rates of a tokenizer without layers."""
        return layer_problems(f"{facts.path}.optimizer", self.optimizer, self.tokenizer)

    def length(self, steps_per_epoch: int) -> int:
        """Return the steps asked for."""
        return self.steps

    def players(self) -> Sequence[Player]:
        """Return the tokenizer alone."""
        rate, optimizer = Rate(self.lr, self.warmup_steps), build_optimizer(self.optimizer)
        return [Player("tokenizer", self.tokenizer, rate, optimizer, clip=self.clip)]

    def objective(self, player: str, work: Tensor, step: TrainingStep) -> Tensor:
        """Return the tokenizer's own total."""
        losses = self.tokenizer.objective(work, step.progress, step.generator("restart"))
        for name, value in losses.parts.items():
            self.tally(name, value)
        return losses.total

    def note(self, record: Mapping[str, Any]) -> str:
        """Say loss and codes in use."""
        return f"loss {record['loss']:.4f}" + (f"  codes {record['codes_used']:.0f}" if "codes_used" in record else "")
