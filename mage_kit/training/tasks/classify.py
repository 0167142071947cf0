"""A classifier learns from labelled images: fine-tuned, from scratch on tokens, or as a linear probe.

Paper: supplement, Tables 11 to 13. Pixels and labels are mixed before the frozen tokenizer. Legend: B images, K
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from mage_kit.base.draws import derive
from mage_kit.base.errors import RecipeError
from mage_kit.base.fields import Fraction, LearningRate, NonNegativeFloat, Positive, PositiveFloat, Probability
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.datasets.class_names import open_by_names
from mage_kit.datasets.subset import few_of_each
from mage_kit.models import MageClassifier
from mage_kit.optimizers import OPTIMIZERS, OptimizerSlot, optimizer_config
from mage_kit.recipes.places import at
from mage_kit.training.batches import IMAGES, Batch
from mage_kit.training.players import Player
from mage_kit.training.tasks.base import TASKS, to_float
from mage_kit.training.tasks.context import Context, Facts, TrainingStep
from mage_kit.training.tasks.mixing import Mix, draw_mix, mix_images, targets
from mage_kit.training.tasks.tokens import TokenTask
from mage_kit.training.validation import Validation, measure_at_end

CLASSIFIER_ADAMW = OPTIMIZERS.parse({"kind": "adamw", "betas": [0.9, 0.999]})


class Lesson:
    """What is computed at once; a plain class, so that engine wrappers hand it on untouched.

    Args:
        content: uint8 images, or tokens of a cache; see `Batch`.
        labels_B: Their classes.
        mix: How they are mixed, if they are.
    """

    def __init__(self, content: Mapping[str, Tensor], labels_B: Tensor, mix: Mix | None) -> None:
        self.content, self.labels_B, self.mix = content, labels_B, mix
        self.tokens: Tensor
        self.wanted_BK: Tensor


@TASKS.register("classify")
class Classify(TokenTask):
    """A classifier learns labels by cross entropy. Paper: Tables 11 to 13 of the supplement.

    Args:
        epochs: Passes over the data.
        warmup_epochs: Epochs of linear warm-up.
        base_lr: Learning rate at a batch of 256: the peak is base_lr x batch / 256.
        optimizer: What moves the weights; LARS is what linear probes are trained by.
        clip: Largest global gradient norm; null: no clipping.
        ema: Decay of a running mean of the model's weights, warmed up; null: no such mean.
        min_lr: Learning rate at the end of the cosine.
        label_smoothing: Share of each label that is spread over all classes.
        mixup: Mixup's alpha, on pixels before the tokenizer; 0: none.
        cutmix: CutMix's alpha, on pixels before the tokenizer; 0: none.
        switch: Share of the steps with CutMix where there are both.
        images_per_class: Labelled images of each class that are trained on, drawn from the seed; null: all.
        validation: Labelled images that the accuracy is measured on; null: none is.
        validate_every: Epochs between two validations; null: at the end alone.
    """

    stage: ClassVar[str] = "classifier"
    model_kind: ClassVar[str | None] = "classifier"
    looks_at: ClassVar[str] = "validation"
    model: MageClassifier

    def __init__(
        self,
        model: MageClassifier,
        *,
        epochs: PositiveFloat,
        warmup_epochs: NonNegativeFloat,
        base_lr: LearningRate = 2.5e-4,
        optimizer: OptimizerSlot = CLASSIFIER_ADAMW,
        clip: PositiveFloat | None = None,
        ema: Probability | None = None,
        min_lr: NonNegativeFloat = 0.0,
        label_smoothing: Probability = 0.0,
        mixup: NonNegativeFloat = 0.0,
        cutmix: NonNegativeFloat = 0.0,
        switch: Fraction = 0.5,
        images_per_class: Positive | None = None,
        validation: Annotated[ComponentConfig, DATASETS.slot()] | None = None,
        validate_every: PositiveFloat | None = None,
    ) -> None:
        self.model = model
        self.epochs, self.warmup_epochs, self.base_lr = epochs, warmup_epochs, base_lr
        self.optimizer, self.clip, self.ema, self.min_lr = optimizer_config(optimizer), clip, ema, min_lr
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix
        self.switch, self.images_per_class = switch, images_per_class
        self.validation, self.validate_every = validation, validate_every
        self._held_out: Dataset | None = None
        # Batch norm counts what is computed at once.
        self.free = frozenset({"validate_every"} if model.batch_norm is not None else {"validate_every", "micro_batch"})

    @property
    def mixes(self) -> list[str]:
        """Which ways of mixing there are."""
        return [name for name in ("mixup", "cutmix") if getattr(self, name)]

    # -- before the run ----------------------------------------------------------------------------------------

    def attentive(self) -> dict[str, nn.Module]:
        """The encoder."""
        return {"encoder": self.model.encoder}

    def problems(self, facts: Facts) -> list[str]:
        """What the settings demand of one another."""
        path, model, mixes = facts.path, self.model, self.mixes
        problems = []
        for name, size in {"batch": facts.batch, "micro_batch": facts.micro_batch}.items():
            if mixes and size is not None and size % 2:
                problems.append(f"{path}.{name}: {size}, must be even: {' and '.join(mixes)} take images by twos")
        problems += super().problems(facts)
        if facts.data is not None and facts.data.kind == "token_cache" and mixes:
            problems.append(f"$.data and {path}.{mixes[0]}: pixels are mixed before the tokenizer; tokens cannot be")
        if self.images_per_class is not None and facts.batch > self.images_per_class * model.classes:
            most = self.images_per_class * model.classes
            problems.append(f"{path}.batch: {facts.batch}, must be at most images_per_class x classes ({most})")
        if model.batch_norm is not None and not model.frozen:
            rule = "a probe's encoder is frozen; name one under pretrained"
            problems.append(f"$.model.head and $.pretrained.freeze: {rule}")
        return problems

    def accept(self, images: Dataset, validation: Dataset | None, seed: int, path: str) -> Dataset:
        """Take labelled images, some of each class where that is asked, and those that accuracy is measured on."""
        if images.gives_tokens and self.mixes:
            raise RecipeError([f"$.data and {path}.{self.mixes[0]}: pixels are mixed, and the data gives tokens"])
        self._held_out = validation
        if validation is None and self.validation is not None:
            wires = DatasetWires(images.image_size, images.channels)
            with at(f"{path}.validation", self.validation):
                self._held_out = open_by_names(self.validation, wires, images.classes)
        for place, dataset in (("$.data", images), (f"{path}.validation", self._held_out)):
            if dataset is None:
                continue
            if len(dataset.classes) != self.model.classes:
                has = f"{len(dataset.classes)} classes" if dataset.classes else "no labels"
                raise RecipeError([f"$.model.classes and {place}: {self.model.classes}, the data has {has}"])
            try:
                dataset.labels()
            except ValueError as error:
                raise RecipeError([f"{place}: {error}"]) from None
        if self.images_per_class is not None:
            images = few_of_each(images, self.images_per_class, seed)
        return super().accept(images, validation, seed, path)

    # -- at its start ------------------------------------------------------------------------------------------

    def enter(self, context: Context) -> None:
        """Make a place for accuracies."""
        super().enter(context)
        images = self._held_out
        self._looks = None if images is None else Validation(images, context.log, context.reporter)

    # -- steps -------------------------------------------------------------------------------------------------

    def cut(self, batch: Batch, step: TrainingStep) -> list[Lesson]:
        """Cut this process's part of a batch; all of a step is mixed alike."""
        assert batch.labels_B is not None
        mix, size = self.mix(step), self.context.layout.micro
        first = replace(
            batch, content={name: tensor[: len(batch.index_B)] for name, tensor in batch.content.items()}, views=1
        )
        parts = zip(first.cut(size), batch.labels_B.split(size), strict=True)
        return [Lesson(content, labels_B, mix) for content, labels_B in parts]

    def mix(self, step: TrainingStep) -> Mix | None:
        """Return how the images of a step are mixed, drawn from (seed, step); None if they are not."""
        if not self.mixes:
            return None
        random = np.random.Generator(np.random.PCG64(derive(step.seed, "mix", step.number)))
        return draw_mix(self.images.image_size, self.mixup, self.cutmix, self.switch, random)

    def prepare(self, micro: Lesson, step: TrainingStep) -> Lesson:
        """Mix pixels, tokenise them, and make the targets."""
        device = self.context.device
        if micro.mix is None:
            micro.tokens = self.encode(micro.content)[self.model.input]
        else:
            floats = mix_images(to_float(micro.content[IMAGES], device), micro.mix)
            micro.tokens = self.encode_floats(floats)[self.model.input]
        labels_B = micro.labels_B.to(device, non_blocking=True)
        micro.wanted_BK = targets(labels_B, self.model.classes, self.label_smoothing, micro.mix)
        return micro

    def objective(self, player: str, work: Lesson, step: TrainingStep) -> Tensor:
        """Return the mean cross entropy; accuracy counts against what was wanted most of each mixed image."""
        logits_BK = self.model(work.tokens).float()
        loss = F.cross_entropy(logits_BK, work.wanted_BK, reduction="sum") / len(logits_BK)
        self.tally("loss", loss)
        self.tally("accuracy", (logits_BK.argmax(dim=1) == work.wanted_BK.argmax(dim=1)).float().mean())
        return loss

    # -- between steps -----------------------------------------------------------------------------------------

    def note(self, record: Mapping[str, Any]) -> str:
        """Say loss and accuracy."""
        return f"loss {record['loss']:.4f}  training accuracy {record['accuracy']:.3f}"

    def look_every(self) -> int:
        """Return the steps between two validations."""
        every = self.validate_every
        return max(1, round(every * self.context.steps_per_epoch)) if every and self._looks else 0

    def look(self, step: int, path: Path) -> None:
        """Measure the accuracy by now."""
        if self._looks is not None:
            self._looks.measure(self.model, step)

    def has_looked(self, step: int, path: Path) -> bool:
        """Return whether the accuracy after this step was written down."""
        return self._looks is None or self._looks.has(step)

    def finish(self, players: Sequence[Player]) -> None:
        """Measure the accuracy of raw and mean weights, into eval/accuracy.json."""
        if self._looks is not None:
            measure_at_end(self._looks, players[0], self.context.steps, self.context.folder)
