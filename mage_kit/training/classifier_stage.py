"""A classifier learns from labelled images: fine-tuned, from scratch on tokens, or as a linear probe.

Paper: supplement, Tables 11 to 13. Pixels and labels are mixed before the frozen tokenizer. Legend: B images, C
channels, H x W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from mage_kit.classifier import MageClassifier
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.datasets import Dataset
from mage_kit.draws import derive
from mage_kit.precision import Decision, choose_precision
from mage_kit.processes import add_up, rank, world
from mage_kit.sections import ClassifierTraining
from mage_kit.training.checkpoints import Checkpointed
from mage_kit.training.ema import WeightMean
from mage_kit.training.engine import accumulate, spread
from mage_kit.training.lars import LARS
from mage_kit.training.layer_rates import layer_groups
from mage_kit.training.loader import Batch, Order, Share, batches
from mage_kit.training.loop import LoopPlan, Stage
from mage_kit.training.mixing import Mix, draw_mix, mix_images, targets
from mage_kit.training.optim import set_lr
from mage_kit.training.tokenizer_stage import to_float
from mage_kit.training.validation import Validation

_TOKENISED = 64  # images at once
_PROBED = 4096  # tokens in the batch that precision is measured on


class ClassifierStage(Stage):
    """Trains a classifier.

    Args:
        recipe: The run's recipe.
        dataset: Labelled images.
        model: Changed in place, its tokenizer excepted.
        fabric: Device and precision.
        tokenization: "float32" or "bfloat16", what the frozen tokenizer computes in.
        validation: Done every `validate_every` epochs; None for never.
    """

    looks_at = "validation"

    def __init__(
        self,
        recipe: ClassifierRecipe,
        dataset: Dataset,
        model: MageClassifier,
        fabric: Fabric,
        tokenization: str = "float32",
        validation: Validation | None = None,
    ) -> None:
        assert recipe.training is not None
        self.settings: ClassifierTraining = recipe.training
        self.recipe, self.dataset, self.model, self.fabric = recipe, dataset, model, fabric
        self.device, self.validation = fabric.device, validation
        self.fast_tokens = tokenization == "bfloat16"
        self.spread = spread("training", self.settings.batch, self.settings.micro_batch, recipe.name)
        self.order = Order(len(dataset), self.settings.batch, derive(recipe.seed, "model"))
        model.train()
        model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster so
        model.to(fabric.device)
        self.module = fabric.setup_module(model)
        self.names = dict(model.trainable())
        made = make_classifier_optimizer(self.names, model, self.settings)
        self.optimizer = fabric.setup_optimizers(made)
        self.sums = {"sums": torch.zeros(3, dtype=torch.float64, device=fabric.device)}
        ema = WeightMean(self.names, self.settings.ema) if self.settings.ema is not None else None
        moments = ("momentum",) if isinstance(made, LARS) else Checkpointed.moments
        self._kept = Checkpointed(model, self.names, made, self.sums, ema, moments=moments)

    @property
    def peak_lr(self) -> float:
        """base_lr x batch / 256."""
        return self.settings.peak_lr

    def plan(self) -> LoopPlan:
        """Return the loop's numbers."""
        settings, per_epoch = self.settings, self.order.steps_per_epoch
        every = settings.validate_every
        return LoopPlan(
            name="classifier",
            steps=max(1, round(settings.epochs * per_epoch)),
            batch=settings.batch,
            steps_per_epoch=per_epoch,
            warmup=round(settings.warmup_epochs * per_epoch),
            lr=self.peak_lr,
            clip=settings.clip,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
            look_every=max(1, round(every * per_epoch)) if every and self.validation else 0,
            keep=settings.keep,
            skip_limit=settings.skip_limit,
            rollbacks=settings.rollbacks,
            seed=self.recipe.seed,
            least_lr=settings.min_lr,
        )

    def gradients(self, batch: Batch, step: int, progress: float) -> Tensor:
        """Forward and backward of all micro-batches; sums are divided by the images of the whole batch."""
        assert batch.labels_B is not None
        mix, total = self.mix(step), torch.zeros((), device=self.device)
        size = self.spread.micro
        starts = range(0, len(batch.index_B), size)

        def run(number: int) -> None:
            part = slice(starts[number], starts[number] + size)
            images_BCHW = to_float(batch.images_TCHW[part], self.device) if not self.dataset.gives_tokens else None
            tokens = self._tokens(batch.images_TCHW[part], images_BCHW, mix)
            labels_B = batch.labels_B[part].to(self.device, non_blocking=True)  # type: ignore[index]  # told above
            wanted_BK = targets(labels_B, self.model.classes, self.settings.label_smoothing, mix)
            logits_BK = self.module(tokens).float()
            loss = F.cross_entropy(logits_BK, wanted_BK, reduction="sum") / self.settings.batch
            self.fabric.backward(loss * world())
            total.add_(loss.detach())
            hits = (logits_BK.argmax(dim=1) == wanted_BK.argmax(dim=1)).sum() / self.settings.batch
            self.sums["sums"] += torch.stack([torch.zeros_like(total), loss.detach(), hits]).double()

        accumulate(self.fabric, self.module, len(starts), run)
        self.sums["sums"][0] += 1.0 / world()
        return total

    def mix(self, step: int) -> Mix | None:
        """Return how the images of a step are mixed, drawn from (seed, step); None if they are not."""
        settings = self.settings
        if not (settings.mixup or settings.cutmix):
            return None
        random = np.random.Generator(np.random.PCG64(derive(self.recipe.seed, "mix", step)))
        return draw_mix(self.dataset.image_size, settings.mixup, settings.cutmix, settings.switch, random)

    def _tokens(self, given: Tensor, images_BCHW: Tensor | None, mix: Mix | None) -> Tensor:
        if images_BCHW is None:
            return given.to(self.device, torch.int64, non_blocking=True)
        if mix is not None:
            images_BCHW = mix_images(images_BCHW, mix)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast_tokens):
            # Some at a time, however many are trained on at once: a VQGAN's activations are far larger than a ViT's.
            return torch.cat([self.model.tokenizer.encode(part) for part in images_BCHW.split(_TOKENISED)])

    def read(self) -> dict[str, Any]:
        """Return mean loss and training accuracy, against what was wanted most of each mixed image."""
        steps, loss, hits = add_up(self.sums["sums"]).cpu().tolist()
        self.sums["sums"].zero_()
        return {"loss": loss / steps, "accuracy": hits / steps} if steps else {}

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of a range of steps."""
        share = Share(rank(), world())
        return batches(self.dataset, self.order, first, last, self.recipe.seed, self.settings.workers, share)

    def moving(self) -> dict[str, Tensor]:
        """Return the running means of a probe's batch norm."""
        return {} if self.model.batch_norm is None else dict(self.model.batch_norm.named_buffers())

    @property
    def kept(self) -> Checkpointed:
        """Weights (the tokenizer's among them), their means, and the optimiser."""
        return self._kept

    def look(self, step: int, path: Path) -> None:
        """Measure the accuracy by now."""
        if self.validation is not None:
            self.validation.measure(self.model, step)

    def looked(self, step: int, path: Path) -> bool:
        """Return whether the accuracy after this step was written down."""
        return self.validation is None or self.validation.has(step)

    def note(self, record: dict[str, Any]) -> str:
        """Say loss and accuracy."""
        return f"loss {record['loss']:.4f}  training accuracy {record['accuracy']:.3f}"


def make_classifier_optimizer(
    names: dict[str, torch.nn.Parameter], model: MageClassifier, settings: ClassifierTraining
) -> torch.optim.Optimizer:
    """Return AdamW with layer-wise rates, or LARS."""
    lr = settings.peak_lr
    if settings.optimizer == "lars":
        return LARS(names.values(), lr, weight_decay=settings.weight_decay)
    groups = layer_groups(names.items(), model.blocks, settings.layer_decay, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=settings.betas, eps=1e-8, fused=True)
    set_lr(optimizer, lr)  # each group its own, from the start
    return optimizer


def classifier_precision(recipe: ClassifierRecipe, model: MageClassifier, device: torch.device) -> Decision:
    """Probe which precision trains this classifier faster on this machine."""
    assert recipe.training is not None
    model.to(device).train()
    spec, length = model.spec, model.spec.grid.size
    count = max(2, min(recipe.training.micro_batch or recipe.training.batch, _PROBED // length))
    shape = (count, length) if spec.codes else (count, length, spec.width)
    tokens = (torch.randint(spec.codes, shape) if spec.codes else torch.rand(shape)).to(device)
    moving = {} if model.batch_norm is None else {k: v.clone() for k, v in model.batch_norm.named_buffers()}

    def run() -> None:
        model(tokens).float().logsumexp(dim=1).sum().backward()
        model.zero_grad()

    decision = choose_precision(recipe.training.precision, device, run)
    for name, value in moving.items():
        model.batch_norm.get_buffer(name).copy_(value)  # type: ignore[union-attr]  # there are none without
    return decision
