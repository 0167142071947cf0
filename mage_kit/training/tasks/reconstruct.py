"""A tokenizer learns to reconstruct images, by the objective that it has itself, and a perceptual one beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import LearningRate, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.base.precision import Decision
from mage_kit.images.chroma import chroma
from mage_kit.optimizers import OPTIMIZERS, OptimizerSlot, build_optimizer, optimizer_config
from mage_kit.perceptual import Perceptual, PerceptualSlot, build_perceptual, channel_problem, perceptual_config
from mage_kit.tokenizers import Tokenizer, TokenizerLosses
from mage_kit.training.players import Player, Rate
from mage_kit.training.tasks.base import TASKS, Task, layer_problems
from mage_kit.training.tasks.context import Choose, Context, Facts, TrainingStep

TOKENIZER_ADAMW = OPTIMIZERS.parse({"kind": "adamw", "weight_decay": 0.0})


@TASKS.register("reconstruct")
class Reconstruct(Task):
    """A tokenizer learns to give back what it was given: warm-up, cosine to the least rate.

    Args:
        steps: Optimizer steps.
        lr: Peak learning rate.
        min_lr: At the last step, at most the peak.
        warmup_steps: Steps of linear warm-up.
        optimizer: What moves the weights.
        clip: Largest global gradient norm.
        ema: Decay of a running mean of the weights, warmed up, which is what is written; null: the weights themselves.
        train: "all", or "decoder": pictures from the tokens that there are, which stay as they are.
        chroma_weight: Of the squared error of chroma (Cb and Cr), beside the tokenizer's own loss; 0: none. Most of
            the error of photographs is brightness, so that hues come late: 4 brings them early. Grey has none.
        perceptual: A network's distance beside the tokenizer's own loss; null: none.
        perceptual_weight: Of that distance.
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
        min_lr: NonNegativeFloat = 0.0,
        warmup_steps: NonNegative = 50,
        optimizer: OptimizerSlot = TOKENIZER_ADAMW,
        clip: PositiveFloat = 1.0,
        ema: Probability | None = None,
        train: Literal["all", "decoder"] = "all",
        chroma_weight: NonNegativeFloat = 0.0,
        perceptual: PerceptualSlot | None = None,
        perceptual_weight: PositiveFloat = 0.1,
    ) -> None:
        self.tokenizer, self.train = tokenizer, train
        self.steps, self.lr, self.min_lr, self.warmup_steps = steps, lr, min_lr, warmup_steps
        self.clip, self.ema, self.optimizer = clip, ema, optimizer_config(optimizer)
        self.chroma_weight = chroma_weight
        self.perceptual, self.perceptual_weight = perceptual_config(perceptual), perceptual_weight
        self._distance: Perceptual | None = perceptual if isinstance(perceptual, Perceptual) else None

    # -- before the run ----------------------------------------------------------------------------------------

    def problems(self, facts: Facts) -> list[str]:
        """Layer-wise rates of a tokenizer without layers; a network that cannot be read, or looks at colour alone."""
        problems = layer_problems(f"{facts.path}.optimizer", self.optimizer, self.tokenizer)
        if self.min_lr > self.lr:
            problems.append(f"{facts.path}.min_lr: {self.min_lr:g}, must be at most lr ({self.lr:g})")
        if self.perceptual is None:
            return problems
        place = f"{facts.path}.perceptual"
        try:
            network = self._network().network
        except MageKitError as error:
            return [*problems, f"{place}: {error}"]
        if self.tokenizer.channels != 3:
            problems.append(f"{place}: {channel_problem(network, self.tokenizer.channels)}")
        return problems

    def _network(self) -> Perceptual:
        if self._distance is None and self.perceptual is not None:
            with torch.device("cpu"):  # parts around it may be without memory
                self._distance = build_perceptual(self.perceptual)
        assert self._distance is not None
        return self._distance

    def length(self, steps_per_epoch: int) -> int:
        """Return the steps asked for."""
        return self.steps

    def materials(self) -> tuple[str, ...]:
        """Return the digests of the perceptual network's weights."""
        return () if self.perceptual is None else self._network().sha256

    # -- at its start ------------------------------------------------------------------------------------------

    def decide(self, choose: Choose, device: torch.device, precision: str, images: int) -> None:
        """Hold the perceptual network's weights against those that the run began with.

        Raises:
            MageKitError: If they are others.
        """
        if not self.materials():
            return
        now, network = " ".join(self.materials()), self._network().network
        first = choose("tokenizer_perceptual", "perceptual weights {}", lambda: Decision(now, network)).value
        if first != now:
            has = f"weights of {network} have SHA-256 {now[:12]}"
            raise MageKitError(f"perceptual: {has}, must be {first[:12]}, with which the run began")

    def enter(self, context: Context) -> None:
        """Leave the gradients to what is trained, and bring the perceptual network to the device."""
        super().enter(context)
        if self.train == "decoder":
            self.tokenizer.train_decoder_alone()
        if self.perceptual is not None:
            distance = self._network().to(context.device)
            context.reporter.say(f"perceptual distance: {distance.network}, weight {self.perceptual_weight:g}")

    def players(self) -> Sequence[Player]:
        """Return the tokenizer alone."""
        rate, optimizer = Rate(self.lr, self.warmup_steps, self.min_lr), build_optimizer(self.optimizer)
        return [Player("tokenizer", self.tokenizer, rate, optimizer, clip=self.clip, ema=self.ema)]

    # -- steps -------------------------------------------------------------------------------------------------

    def objective(self, player: str, work: Any, step: TrainingStep) -> Tensor:
        """Return the tokenizer's own total, with the perceptual distance."""
        return self.rebuild(work, step)[0]

    def rebuild(self, images_BCHW: Tensor, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """Return what the tokenizer minimises without an adversary, a scalar, and the images given back (B, C, H, W).

        Args:
            images_BCHW: float images in [0, 1].
            step: The step.

        Raises:
            MageKitError: If something is to be added, and the tokenizer gives no images back.
        """
        losses = self._losses(images_BCHW, step)
        for name, value in losses.parts.items():
            if name != "loss":  # which is the total's, below
                self.tally(name, value)
        total, rebuilt_BCHW = losses.total, losses.rebuilt
        weighs_chroma = self.chroma_weight > 0 and self.tokenizer.channels >= 3
        if rebuilt_BCHW is None and (weighs_chroma or self._distance is not None):
            raise MageKitError(no_images(self.tokenizer))
        if weighs_chroma:
            assert rebuilt_BCHW is not None
            with torch.autocast(images_BCHW.device.type, enabled=False):  # its product would be of bfloat16 numbers
                error = chroma(rebuilt_BCHW[:, :3].float() - images_BCHW[:, :3].float()).square().mean()
            self.tally("chroma", error)
            total = total + self.chroma_weight * error
        if self._distance is not None:
            assert rebuilt_BCHW is not None
            distance = self._distance(rebuilt_BCHW, images_BCHW).mean()
            self.tally("perceptual", distance)
            total = total + self.perceptual_weight * distance
        self.tally("loss", total)
        return total, images_BCHW if rebuilt_BCHW is None else rebuilt_BCHW

    def _losses(self, images_BCHW: Tensor, step: TrainingStep) -> TokenizerLosses:
        if self.train == "decoder":
            return self.tokenizer.decoder_objective(images_BCHW)
        return self.tokenizer.objective(images_BCHW, step.progress, step.generator("restart"))

    # -- what is said of it ------------------------------------------------------------------------------------

    def note(self, record: Mapping[str, Any]) -> str:
        """Say loss and codes in use."""
        return f"loss {record['loss']:.4f}" + (f"  codes {record['codes_used']:.0f}" if "codes_used" in record else "")


def no_images(tokenizer: Tokenizer) -> str:
    """Say why nothing can be added to a tokenizer's objective."""
    return f"tokenizer: {type(tokenizer).__name__}.objective gives no images back (`rebuilt`) that could be judged"
