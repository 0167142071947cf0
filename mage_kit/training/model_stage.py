"""Second stage: the model learns to predict masked tokens of the frozen tokenizer.

Legend: B images of a step, T views x B images (view after view), L tokens, M loss rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from mage_kernels import MaskPlan, choose_attention
from torch import Tensor, nn

from mage_kit.blocks import SelfAttention
from mage_kit.datasets import Dataset
from mage_kit.draws import derive, generator, keys, uniforms
from mage_kit.errors import RecipeError
from mage_kit.losses import BatchMasks, Loss
from mage_kit.model import Mage
from mage_kit.precision import Decision, choose_precision
from mage_kit.recipe import Recipe
from mage_kit.sections import Training
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.checkpoints import Checkpointed
from mage_kit.training.loader import Batch, Order, batches
from mage_kit.training.loop import LoopPlan, Stage
from mage_kit.training.metrics import RatioBins
from mage_kit.training.optim import clip_gradients, make_optimizer
from mage_kit.training.tokenizer_stage import to_float

_PROBED = 4096  # tokens in the batch that precision is measured on
AGREEMENT = 0.98  # of bfloat16 ids with float32 ids, below which the tokenizer runs in float32


class Work:
    """The masks of one micro-batch; a plain class, so that engine wrappers hand it on untouched."""

    def __init__(self, plan: MaskPlan, masks: BatchMasks) -> None:
        self.plan, self.masks = plan, masks


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
        output = self.model(tokens, work.plan, work.masks)
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

    Raises:
        RecipeError: If the data gives fewer views than the losses need.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, model: Mage, fabric: Fabric, tokenization: str = "float32"
    ) -> None:
        assert recipe.training is not None
        self.fast_tokens = tokenization == "bfloat16"
        self.settings: Training = recipe.training
        self.recipe, self.dataset, self.model, self.fabric = recipe, dataset, model, fabric
        if dataset.augment.views < model.views:
            raise RecipeError(
                [f"$.data.augment.views: {dataset.augment.views}, the losses need {model.views}"], recipe.name
            )
        self.order = Order(len(dataset), self.settings.batch, derive(recipe.seed, "model"))
        model.train()
        model.tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster so
        self.names = dict(model.trainable())
        settings = self.settings
        optimizer = make_optimizer(self.names.items(), self.peak_lr, settings.weight_decay, settings.betas)
        self.module, self.optimizer = fabric.setup(TrainStep(model), optimizer)
        self.bins = RatioBins(model.mask_ratio.low, model.mask_ratio.high, fabric.device, model.spec.discrete)
        self.weights = torch.tensor(model.loss_weights, device=fabric.device)
        losses = torch.zeros(1 + len(model.losses), dtype=torch.float64, device=fabric.device)
        self.sums = {"bins": self.bins.sums_3K, "losses": losses}

    @property
    def peak_lr(self) -> float:
        """base_lr x batch / 256."""
        return self.settings.base_lr * self.settings.batch / 256

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
            log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every,
            keep=settings.keep,
            seed=self.recipe.seed,
        )

    def step(self, batch: Batch, step: int, progress: float) -> Tensor:
        """One optimiser step over all micro-batches; sums are divided by the whole batch's counts."""
        micros = self._micros(batch, step)
        losses = [loss for loss in self.model.losses if isinstance(loss, Loss)]
        counts = [max(1.0, sum(loss.count(masks) for _, masks, _ in micros)) for loss in losses]
        for images, masks, noise_TL in micros:
            with torch.no_grad(), torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=self.fast_tokens):
                tokens = self.model.tokenizer.encode(to_float(images, self.fabric.device))
            plan = self.model.plan(masks.ratio_B, noise_TL)
            totals, rows = self.module(tokens, Work(plan, masks))
            parts = torch.stack([total / count for total, count in zip(totals, counts, strict=True)])
            self.fabric.backward((parts * self.weights).sum())
            self.sums["losses"] += torch.cat([torch.zeros_like(parts[:1]), parts]).detach().double()
            self._count_rows(plan, masks, rows)
        self.sums["losses"][0] += 1
        norm = clip_gradients(self.names.values(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _micros(self, batch: Batch, step: int) -> list[tuple[Tensor, BatchMasks, Tensor]]:
        """Cut a batch: images, host side of the masks, and mask noise of each micro-batch."""
        size, views = len(batch.index_B), batch.views
        ratio_B = self.ratios(step, size)
        noise_VBL = torch.stack(
            [
                uniforms(
                    keys(self.recipe.seed, "mask", batch.index_B, batch.epoch, view),
                    self.model.spec.grid.size,
                )
                for view in range(views)
            ]
        )
        images = batch.images_TCHW.unflatten(0, (views, size))
        micro = self.settings.micro_batch or size
        result = []
        for start in range(0, size, micro):
            part = slice(start, start + micro)
            ratio_T = ratio_B[part].repeat(views)
            n_masked = self.model.n_masked(ratio_T)
            masks = BatchMasks(ratio_T, int(n_masked.sum()), views)
            noise_TL = noise_VBL[:, part].flatten(0, 1).to(self.fabric.device, non_blocking=True)
            result.append((images[:, part].flatten(0, 1), masks, noise_TL))
        return result

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
        steps, *sums = self.sums["losses"].cpu().tolist()
        self.sums["losses"].zero_()
        means = [value / steps for value in sums]
        record: dict[str, Any] = {"loss": sum(w * m for w, m in zip(self.model.loss_weights, means, strict=True))}
        for number, (config, mean) in enumerate(zip(self.recipe.losses, means, strict=True)):
            record[config.kind if config.kind not in record else f"{config.kind}_{number}"] = mean
        if self.model.spec.codes:
            record["chance"] = math.log(self.model.spec.codes)
        return record | self.bins.read()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of a range of steps."""
        return batches(self.dataset, self.order, first, last, self.recipe.seed, self.settings.workers)

    @property
    def kept(self) -> Checkpointed:
        """Weights (the tokenizer's among them) and optimiser."""
        return Checkpointed(self.model, self.names, self.optimizer, self.sums)

    def note(self, record: dict[str, Any]) -> str:
        """Say the loss, against chance where there are codes."""
        chance = f" (chance {record['chance']:.2f})" if "chance" in record else ""
        return f"loss {record['loss']:.4f}{chance}"


def model_precision(recipe: Recipe, model: Mage, device: torch.device) -> Decision:
    """Probe which precision trains this model faster on this machine."""
    assert recipe.training is not None
    run = _probe_run(model.to(device).train(), device, recipe.training.micro_batch or recipe.training.batch)
    return choose_precision(recipe.training.precision, device, run)


def model_attention(recipe: Recipe, model: Mage, part: nn.Module, device: torch.device, precision: str) -> Decision:
    """Choose the attention form of the encoder or the decoder: as asked, else the faster one at its shape."""
    assert recipe.training is not None
    block = next((module for module in part.modules() if isinstance(module, SelfAttention)), None)
    if block is None:
        return Decision("sdpa", "no attention in it")
    if recipe.kernels.attention != "auto":
        return Decision(recipe.kernels.attention, f"attention '{recipe.kernels.attention}' was asked for")
    seen = 1 + model.spec.grid.size - (model.n_dropped if part is model.encoder else 0)
    shape = (recipe.training.micro_batch or recipe.training.batch, block.heads, seen)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    width = block.qkv.in_features // block.heads
    choice = choose_attention(recipe.kernels.backend, device, dtype, (*shape, width), block.dropout)
    return Decision(choice.implementation, choice.reason)


def tokenization_precision(model: Mage, dataset: Dataset, device: torch.device, precision: str) -> Decision:
    """Let the frozen tokenizer run in bfloat16 only where it gives nearly the same ids as in float32."""
    if precision == "float32":
        return Decision("float32", "the model runs in float32")
    if not model.spec.discrete:
        return Decision("float32", "continuous tokens")
    tokenizer = model.tokenizer.to(device)
    stills = [torch.from_numpy(dataset.still(index).views[0]) for index in range(min(64, len(dataset)))]
    images = to_float(torch.stack(stills), device)
    share = token_agreement(tokenizer, images)
    value = "bfloat16" if share >= AGREEMENT else "float32"
    return Decision(value, f"ids in bfloat16 agree with float32's in {share:.1%} of tokens (needed: {AGREEMENT:.0%})")


def token_agreement(tokenizer: Tokenizer, images_BCHW: Tensor) -> float:
    """Return the share of tokens whose ids are the same in bfloat16 and in float32.

    Args:
        tokenizer: One with codes, in evaluation mode.
        images_BCHW: float images in [0, 1], on its device.
    """
    with torch.autocast(images_BCHW.device.type, torch.bfloat16):
        fast = tokenizer.encode(images_BCHW)
    return float((fast == tokenizer.encode(images_BCHW)).double().mean())


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
