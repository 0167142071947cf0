"""A tokenizer learns to give pictures back, and to deceive a network that learns to tell them from real ones.

Two players. The tokenizer minimises its own loss, a perceptual distance if there is one, and the generator's part of
the contest; the adversary the other part, and what keeps it in bounds. The adversary plays from the first step on, the
tokenizer listens to it later, more from step to step: an adversary that knows nothing yet would only break pictures
(Esser et al., 2021, start both late; LlamaGen and others break at that step).

Legend: B images, C channels, H x W pixels, U uniforms an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.adversaries import (
    AdversarySlot,
    Change,
    Contest,
    adaptive_weight,
)
from mage_kit.adversaries.differentiable_augment import DRAWS
from mage_kit.base import processes
from mage_kit.base.draws import keys, uniforms
from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import LearningRate, NonNegativeFloat, PositiveFloat, Probability
from mage_kit.base.files import atomic_folder, write_json, write_tensors
from mage_kit.optimizers import OptimizerSlot, build_optimizer
from mage_kit.store.exported_adversary import ADVERSARY_CARD, ADVERSARY_FOLDER, ADVERSARY_WEIGHTS
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.batches import Batch
from mage_kit.training.players import Player, Rate
from mage_kit.training.tasks.base import TASKS, to_float
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
from mage_kit.training.tasks.reconstruct import Reconstruct, no_images


@dataclass
class Pictures:
    """What is computed at once.

    Args:
        images_BCHW: uint8, then float images in [0, 1].
        uniforms_BU: What the changes before a judgement follow.
        rebuilt_BCHW: What the tokenizer gave back, once it has played.
    """

    images_BCHW: Tensor
    uniforms_BU: Tensor
    rebuilt_BCHW: Tensor | None = None


@TASKS.register("adversarial")
class Adversarial(Reconstruct):
    """As reconstruct, with an adversary that the tokenizer learns to deceive.

    Args:
        lr: Peak learning rate of the tokenizer.
        optimizer: What moves both players' weights.
        adversary: The network that judges.
        adversary_lr: Its peak learning rate, at least min_lr, with which it ends too; null: the tokenizer's.
        contest: What both play for: hinge (half of it, as published), non_saturating, vanilla.
        adversarial_weight: Of the generator's part.
        adaptive: Multiply it by the ratio of both losses' gradients at the last layer (VQGAN, equation 7); each pass of
            a step by its own.
        listens_from: Share of the steps from which the tokenizer listens to the adversary.
        ramp: Share of the steps over which it comes to do so in full.
        lecam: Weight of LeCam's regularisation of the adversary; 0: none.
        gradient_penalty: Weight of R1, the squared gradient of its judgements at real pictures; 0: none.
        augment: Changes before pictures are judged (DiffAugment), for small data.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        lr: LearningRate = 1e-4,
        optimizer: OptimizerSlot = CONTEST_ADAMW,
        adversary: AdversarySlot = PUBLISHED_ADVERSARY,
        adversary_lr: LearningRate | None = None,
        contest: Contest = "hinge",
        adversarial_weight: PositiveFloat = 0.1,
        adaptive: bool = False,
        listens_from: Probability = 0.2,
        ramp: Probability = 0.1,
        lecam: NonNegativeFloat = 0.001,
        gradient_penalty: NonNegativeFloat = 0.0,
        augment: tuple[Change, ...] = (),
        **shared: Any,
    ) -> None:
        super().__init__(tokenizer, lr=lr, optimizer=optimizer, **shared)
        self.adversary, self.adversary_lr, self.contest = adversary, adversary_lr, contest
        self.adversarial_weight, self.adaptive = adversarial_weight, adaptive
        self.listens_from, self.ramp = listens_from, ramp
        self.lecam, self.gradient_penalty, self.augment = lecam, gradient_penalty, augment

    # -- before the run ----------------------------------------------------------------------------------------

    def problems(self, facts: Facts) -> list[str]:
        """Pictures too small for the adversary; gradients to compare where there is no last layer."""
        problems = super().problems(facts)
        problems += adversary_problems(f"{facts.path}.adversary", self.adversary, self.tokenizer)
        if self.adversary_lr is not None and self.adversary_lr < self.min_lr:
            rule = f"must be at least min_lr ({self.min_lr:g}), with which it ends too"
            problems.append(f"{facts.path}.adversary_lr: {self.adversary_lr:g}, {rule}")
        if self.adaptive and self.tokenizer.last_weight is None:
            rule = f"must be false: {type(self.tokenizer).__name__} has no last layer to compare gradients at"
            problems.append(f"{facts.path}.adaptive: true, {rule}")
        return problems

    # -- at its start ------------------------------------------------------------------------------------------

    def enter(self, context: Context) -> None:
        """Make the adversary, drawn from the run's seed."""
        super().enter(context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            adversary = adversary_of(self.adversary, self.tokenizer)
            self.judge = Game(adversary, self.contest, self.lecam, self.gradient_penalty, self.augment)

    def players(self) -> Sequence[Player]:
        """Return the tokenizer, and the adversary after it, which judges what the tokenizer gave back."""
        rate = Rate(self.adversary_lr or self.lr, self.warmup_steps, self.min_lr)
        judge = Player("adversary", self.judge, rate, build_optimizer(self.optimizer), clip=self.clip)
        return [*super().players(), judge]

    # -- steps -------------------------------------------------------------------------------------------------

    def cut(self, batch: Batch, step: TrainingStep) -> Sequence[Pictures]:
        """Cut this process's part of a batch, with draws that follow the images."""
        micro, images = self.context.layout.micro, batch.images_TCHW[: len(batch.index_B)]
        draws_BU = uniforms(keys(step.seed, "augment", batch.index_B, batch.epoch), DRAWS)
        pieces = list(zip(images.split(micro), draws_BU.split(micro), strict=True))
        self._passes = len(pieces)
        return [Pictures(images_BCHW, uniforms_BU) for images_BCHW, uniforms_BU in pieces]

    def prepare(self, micro: Pictures, step: TrainingStep) -> Pictures:
        """Bring a piece to the device."""
        device = self.context.device
        return Pictures(to_float(micro.images_BCHW, device), micro.uniforms_BU.to(device))

    def objective(self, player: str, work: Any, step: TrainingStep) -> Tensor:
        """Return what a player minimises."""
        return self._deceive(work, step) if player == "tokenizer" else self._tell_apart(work)

    def _deceive(self, work: Pictures, step: TrainingStep) -> Tensor:
        total, rebuilt_BCHW = self.rebuild(work.images_BCHW, step)
        if rebuilt_BCHW is work.images_BCHW:
            raise MageKitError(no_images(self.tokenizer))
        work.rebuilt_BCHW = rebuilt_BCHW.detach()
        weight = self.adversarial_weight * self.listening(step.progress)
        if not weight:
            return total
        deceiving = self.judge.deceive(rebuilt_BCHW, work.uniforms_BU)
        self.tally("deceiving", deceiving)
        if not self.adaptive:
            return total + weight * deceiving
        last = self.tokenizer.last_weight
        assert last is not None
        factor = adaptive_weight(total, deceiving, last)
        self.tally("adaptive_weight", factor)
        return total + weight * factor * deceiving

    def listening(self, progress: float) -> float:
        """Return how much the tokenizer listens to the adversary, in [0, 1], at a share of the training done."""
        return listening(progress, self.listens_from, self.ramp)

    def _tell_apart(self, work: Pictures) -> Tensor:
        assert work.rebuilt_BCHW is not None
        return self.judge.tell_apart(work.images_BCHW, work.rebuilt_BCHW, work.uniforms_BU, self._passes, self.tally)

    # -- what is said of it ------------------------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """Return the metrics; say so where the adversary has died."""
        record = super().read()
        if words := death(record):
            self.context.reporter.say(words)
        return record

    def finish(self, players: Sequence[Player]) -> None:
        """Write the adversary beside the tokenizer, which stays what it is without."""
        processes.on_first(lambda: self._write(self.context.folder / ADVERSARY_FOLDER))

    def _write(self, folder: Path) -> None:
        with atomic_folder(folder, listed=True) as temporary:
            write_tensors(temporary / ADVERSARY_WEIGHTS, self.judge.adversary.state_dict())
            write_json(temporary / ADVERSARY_CARD, {"adversary": self.adversary.model_dump(mode="json")})

    def note(self, record: Mapping[str, Any]) -> str:
        """Say how often the adversary is right, too."""
        return super().note(record) + share_right(record)
