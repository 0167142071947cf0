"""Second stage: the model learns to predict masked tokens of the frozen tokenizer.

Legend: B images of a step, T views x B images (view after view), L tokens, M loss rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from mage_kernels import MaskPlan
from torch import Tensor, nn

from mage_kit.classifier import MageClassifier
from mage_kit.condition import Condition
from mage_kit.datasets import Dataset
from mage_kit.draws import derive, generator, keys, uniforms
from mage_kit.errors import RecipeError
from mage_kit.losses import BatchMasks, Loss
from mage_kit.model import Mage
from mage_kit.precision import Decision, choose_precision
from mage_kit.processes import add_up, alone, is_first, on_first, rank, world
from mage_kit.recipe import Recipe
from mage_kit.sections import Training
from mage_kit.storage import load_state, state_of
from mage_kit.training.checkpoints import Checkpointed, mean_state
from mage_kit.training.ema import WeightMean
from mage_kit.training.engine import accumulate, spread
from mage_kit.training.loader import Batch, Order, Share, batches
from mage_kit.training.loop import LoopPlan, Stage
from mage_kit.training.metrics import RatioBins
from mage_kit.training.optim import make_optimizer
from mage_kit.training.tokenizer_stage import to_float, token_precision

Drawer = Callable[[list[tuple[str, Mage]], Path], None]
"""Draws samples of models, each with its label, into a file."""

_PROBED = 4096  # tokens in the batch that precision is measured on


Micro = tuple[Tensor, BatchMasks, Tensor, Condition | None]
"""A micro-batch: images, host side of the masks, mask noise, labels of conditional models."""


class Work:
    """The masks and labels of one micro-batch; a plain class, so that engine wrappers hand it on untouched."""

    def __init__(self, plan: MaskPlan, masks: BatchMasks, condition: Condition | None) -> None:
        self.plan, self.masks, self.condition = plan, masks, condition


class TrainStep(nn.Module):
    """The model's training pass with plain tensors in and out.

    Args:
        model: The model.
    """

    def __init__(self, model: Mage) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, work: Work) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Return each loss's sum, and (rows, hits) of each loss that has rows (hits may be absent)."""
        output = self.model(tokens, work.plan, work.masks, condition=work.condition)
        rows = [[part for part in (term.rows_M, term.hits_M) if part is not None] for term in output.terms]
        return [term.total for term in output.terms], rows


class ModelStage(Stage):
    """Trains a model.

    Args:
        recipe: The run's recipe.
        dataset: Images.
        model: Changed in place, its tokenizer excepted.
        fabric: Device and precision.
        tokenization: "float32" or "bfloat16", what the frozen tokenizer computes in.
        draw: Makes a picture of samples; None for no pictures.

    Raises:
        RecipeError: If the data gives fewer views than the losses need.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        model: Mage,
        fabric: Fabric,
        tokenization: str = "float32",
        draw: Drawer | None = None,
    ) -> None:
        assert recipe.training is not None
        self.fast_tokens = tokenization == "bfloat16"
        self.settings: Training = recipe.training
        self.recipe, self.dataset, self.model, self.fabric = recipe, dataset, model, fabric
        self.device, self.draw = fabric.device, draw
        self.spread = spread("training", self.settings.batch, self.settings.micro_batch, recipe.name)
        if dataset.augment.views < model.views:
            raise RecipeError(
                [f"$.data views: {dataset.augment.views} an image, the losses need {model.views}"], recipe.name
            )
        self.order = Order(len(dataset), self.settings.batch, derive(recipe.seed, "model"))
        model.train()
        model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster so
        model.to(fabric.device)  # buffers and frozen parts too, which sharding does not move
        settings = self.settings
        self.module = fabric.setup_module(TrainStep(model))
        self.names = dict(model.trainable())  # by now shards, where the model is sharded
        made = make_optimizer(self.names.items(), self.peak_lr, settings.weight_decay, settings.betas)
        self.optimizer = fabric.setup_optimizers(made)
        self.bins = RatioBins(model.mask_ratio.low, model.mask_ratio.high, fabric.device, model.spec.discrete)
        self.weights = torch.tensor(model.loss_weights, device=fabric.device)
        losses = torch.zeros(1 + len(model.losses), dtype=torch.float64, device=fabric.device)
        self.sums = {"bins": self.bins.sums_3K, "losses": losses}
        ema = WeightMean(self.names, settings.ema) if settings.ema is not None else None
        self._kept = Checkpointed(model, self.names, made, self.sums, ema)

    @property
    def peak_lr(self) -> float:
        """base_lr x batch / 256."""
        return self.settings.peak_lr

    def plan(self) -> LoopPlan:
        """Return the loop's numbers."""
        settings = self.settings
        per_epoch = self.order.steps_per_epoch
        return LoopPlan(
            name="model",
            steps=max(1, round(settings.epochs * per_epoch)),
            batch=settings.batch,
            steps_per_epoch=per_epoch,
            warmup=round(settings.warmup_epochs * per_epoch),
            lr=self.peak_lr,
            clip=settings.clip,
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
            look_every=max(1, round(settings.samples_every * per_epoch)) if settings.samples_every else 0,
            keep=settings.keep,
            skip_limit=settings.skip_limit,
            rollbacks=settings.rollbacks,
            seed=self.recipe.seed,
        )

    def gradients(self, batch: Batch, step: int, progress: float) -> Tensor:
        """Forward and backward of all micro-batches; sums are divided by the counts of the whole batch, all processes'.

        The engine takes the mean of the processes' gradients, so that each one's part of the sum weighs as many
        times as there are processes.
        """
        micros, ratio_S = self._micros(batch, step)
        every = BatchMasks(
            ratio_S.repeat(batch.views), int(self.model.n_masked(ratio_S).sum()) * batch.views, batch.views
        )
        counts = [max(1.0, loss.count(every)) for loss in self.model.losses if isinstance(loss, Loss)]
        total = torch.zeros((), device=self.device)

        def run(number: int) -> None:
            images, masks, noise_TL, condition = micros[number]
            plan = self.model.plan(masks.ratio_B, noise_TL)
            totals, rows = self.module(self._tokens(images), Work(plan, masks, condition))
            parts = torch.stack([part / count for part, count in zip(totals, counts, strict=True)])
            loss = (parts * self.weights).sum()
            self.fabric.backward(loss * world())
            total.add_(loss.detach())
            self.sums["losses"] += torch.cat([torch.zeros_like(parts[:1]), parts]).detach().double()
            self._count_rows(plan, masks, rows)

        accumulate(self.fabric, self.module, len(micros), run)
        self.sums["losses"][0] += float(is_first())
        return total

    def _tokens(self, images: Tensor) -> Tensor:
        if self.dataset.gives_tokens:
            return images.to(self.device, torch.int64, non_blocking=True)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast_tokens):
            return self.model.tokenizer.encode(to_float(images, self.device))

    def _micros(self, batch: Batch, step: int) -> tuple[list[Micro], Tensor]:
        """Cut this process's part of a batch into micro-batches; with the ratios of the whole step's images, of which
        this process's are the ones at its place."""
        size, views, micro = len(batch.index_B), batch.views, self.spread.micro
        ratio_S = self.ratios(step, size * world())
        ratio_B = ratio_S[rank() * size : (rank() + 1) * size] if world() > 1 else ratio_S
        length = self.model.spec.grid.size
        keyed = [keys(self.recipe.seed, "mask", batch.index_B, batch.epoch, view) for view in range(views)]
        noise_VBL = torch.stack([uniforms(key_B, length) for key_B in keyed])
        images = batch.images_TCHW.unflatten(0, (views, size))
        condition = self._condition(batch)
        result = []
        for start in range(0, size, micro):
            part = slice(start, start + micro)
            ratio_T = ratio_B[part].repeat(views)
            masks = BatchMasks(ratio_T, int(self.model.n_masked(ratio_T).sum()), views)
            noise_TL = noise_VBL[:, part].flatten(0, 1).to(self.device, non_blocking=True)
            told = None if condition is None else Condition(condition.labels_B[part].repeat(views)).to(self.device)
            result.append((images[:, part].flatten(0, 1), masks, noise_TL, told))
        return result, ratio_S

    def _condition(self, batch: Batch) -> Condition | None:
        """Return the images' labels, less those withheld: drawn from (seed, epoch, image)."""
        decoder = self.model.decoder
        if decoder.classes is None or batch.labels_B is None:
            return None
        uniform_B = uniforms(keys(self.recipe.seed, "label", batch.index_B, batch.epoch), 1)[:, 0]
        return Condition(batch.labels_B).dropped(uniform_B, decoder.label_dropout)

    def ratios(self, step: int, size: int) -> Tensor:
        """Return one ratio an image, shared by `ratio_group` consecutive images of the global batch."""
        group = self.model.ratio_group or size
        ratio_G = self.model.draw_ratios(math.ceil(size / group), generator(self.recipe.seed, "ratio", step))
        return ratio_G.repeat_interleave(group)[:size]

    def _count_rows(self, plan: MaskPlan, masks: BatchMasks, rows: list[list[Tensor]]) -> None:
        """Sum loss and accuracy by ratio, of the first loss that has rows."""
        found = next((parts for parts in rows if parts), None)
        if found is not None:
            image_M = plan.picked_M // self.model.spec.grid.size
            self.bins.add(masks.ratio_B, image_M, plan.weight_M, found[0], found[1] if len(found) > 1 else None)

    def read(self) -> dict[str, Any]:
        """Return mean losses, accuracy, the chance line ln K, and both by ratio."""
        steps, *sums = add_up(self.sums["losses"]).cpu().tolist()
        self.sums["losses"].zero_()
        if not steps:  # all were left out
            self.bins.read()
            return {}
        means = [value / steps for value in sums]
        record: dict[str, Any] = {"loss": sum(w * m for w, m in zip(self.model.loss_weights, means, strict=True))}
        for number, (config, mean) in enumerate(zip(self.recipe.losses, means, strict=True)):
            record[config.kind if config.kind not in record else f"{config.kind}_{number}"] = mean
        if self.model.spec.codes:
            record["chance"] = math.log(self.model.spec.codes)
        return record | self.bins.read()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of a range of steps."""
        share = Share(rank(), world())
        return batches(self.dataset, self.order, first, last, self.recipe.seed, self.settings.workers, share)

    @property
    def kept(self) -> Checkpointed:
        """Weights (the tokenizer's among them), their means, and the optimiser."""
        return self._kept

    def look(self, step: int, path: Path) -> None:
        """Draw samples of the raw and the mean weights, from copies that the first process builds."""
        if self.draw is None:
            return
        states = {"raw weights": state_of(self.model)}
        if self._kept.ema is not None:
            states["EMA weights"] = self.mean_state()
        on_first(partial(self._draw, states, path))

    def mean_state(self) -> dict[str, Tensor]:
        """Return the model's tensors with the mean weights, as `state_of` does."""
        return mean_state(self._kept)

    def _draw(self, states: dict[str, dict[str, Tensor]], path: Path) -> None:
        assert self.draw is not None
        rows = []
        with alone(), torch.random.fork_rng(devices=[]):
            for name, state in states.items():
                copied = self.recipe.build_model(self.recipe.build_tokenizer())
                load_state(copied, state, str(path))
                rows.append((name, copied.to(self.device).eval()))
            self.draw(rows, path)

    def note(self, record: dict[str, Any]) -> str:
        """Say the loss, against chance where there are codes."""
        chance = f" (chance {record['chance']:.2f})" if "chance" in record else ""
        return f"loss {record['loss']:.4f}{chance}"


def model_precision(recipe: Recipe, model: Mage, device: torch.device) -> Decision:
    """Probe which precision trains this model faster on this machine."""
    assert recipe.training is not None
    run = _probe_run(model.to(device).train(), device, recipe.training.micro_batch or recipe.training.batch)
    return choose_precision(recipe.training.precision, device, run)


def tokenization_precision(
    model: Mage | MageClassifier, dataset: Dataset, device: torch.device, precision: str
) -> Decision:
    """Let the frozen tokenizer run in bfloat16 only where it gives nearly the same ids as in float32."""
    if dataset.gives_tokens:
        return Decision("float32", "tokens come from a cache")
    if precision == "float32":
        return Decision("float32", "the model runs in float32")
    if not model.spec.discrete:
        return Decision("float32", "continuous tokens")
    return token_precision(model.tokenizer.to(device), dataset, device, precision)


def _probe_run(model: Mage, device: torch.device, batch: int) -> Callable[[], None]:
    """One forward and backward pass of the whole model on made tokens."""
    length, spec = model.spec.grid.size, model.spec
    images = max(2, min(batch, _PROBED // length) // 2 * 2)  # near the real size: small batches favour float32
    shape = (images, length) if spec.codes else (images, length, spec.width)
    tokens = torch.randint(spec.codes, shape) if spec.codes else torch.rand(shape)
    ratio_B = torch.full((images,), model.mask_ratio.high, dtype=torch.float64)
    noise = torch.rand(images, length).to(device)
    tokens = tokens.to(device)

    def run() -> None:
        masks = BatchMasks(ratio_B, int(model.n_masked(ratio_B).sum()), 2)
        output = model(tokens, model.plan(ratio_B, noise), masks)
        torch.stack([term.total for term in output.terms]).sum().backward()
        model.zero_grad()

    return run
