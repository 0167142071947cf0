"""First stage: the tokenizer learns to reconstruct the data set's images."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mage_kit.datasets import Dataset
from mage_kit.draws import derive, generator
from mage_kit.errors import BrokenImageError
from mage_kit.precision import Decision, bfloat16_products, choose_precision
from mage_kit.processes import add_up, rank, world
from mage_kit.recipe import Recipe
from mage_kit.sections import TokenizerTraining
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.checkpoints import Checkpointed
from mage_kit.training.engine import spread
from mage_kit.training.loader import Batch, Order, Share, batches
from mage_kit.training.loop import LoopPlan, Stage
from mage_kit.training.optim import make_optimizer

AGREEMENT = 0.98  # of bfloat16 ids with float32 ids, below which the tokenizer runs in float32
_COMPARED = 64  # images that this is measured on
_PROBED = 1 << 16  # pixels in the batch that precision is measured on


class _Objective(nn.Module):
    """The tokenizer's objective as a forward pass, for wrappers that know only that.

    Args:
        tokenizer: What is trained.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(
        self, images_BCHW: Tensor, progress: float, random: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and its parts."""
        losses = self.tokenizer.objective(images_BCHW, progress, random)
        return losses.total, losses.parts


class TokenizerStage(Stage):
    """Trains a tokenizer.

    Args:
        recipe: The run's recipe.
        dataset: Images.
        tokenizer: Changed in place.
        fabric: Device and precision.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, tokenizer: Tokenizer, fabric: Fabric) -> None:
        assert recipe.tokenizer_training is not None
        self.settings: TokenizerTraining = recipe.tokenizer_training
        self.device = fabric.device
        self.spread = spread("tokenizer_training", self.settings.batch, None, recipe.name)
        self.recipe, self.dataset, self.tokenizer, self.fabric = recipe, dataset, tokenizer, fabric
        self.order = Order(len(dataset), self.settings.batch, derive(recipe.seed, "tokenizer"))
        tokenizer.start_training()
        settings = self.settings
        self.names = {name: parameter for name, parameter in tokenizer.named_parameters() if parameter.requires_grad}
        self.module = fabric.setup_module(_Objective(tokenizer))
        made = make_optimizer(self.names.items(), settings.lr, settings.weight_decay, settings.betas)
        self.optimizer = fabric.setup_optimizers(made)
        self.sums: dict[str, Tensor] = {}
        self._kept = Checkpointed(tokenizer, self.names, made, self.sums)
        state = tokenizer.state_dict()  # shares its tensors, which are changed in place
        self._moving = {name: tensor for name, tensor in state.items() if name not in self.names}

    def plan(self) -> LoopPlan:
        """Return the loop's numbers."""
        settings, training = self.settings, self.recipe.training
        assert training is not None
        return LoopPlan(
            name="tokenizer",
            steps=settings.steps,
            batch=self.order.batch,
            steps_per_epoch=self.order.steps_per_epoch,
            warmup=settings.warmup_steps,
            lr=settings.lr,
            clip=settings.clip,
            log_every=training.log_every,
            checkpoint_every=training.checkpoint_every,
            look_every=0,
            keep=training.keep,
            skip_limit=training.skip_limit,
            rollbacks=training.rollbacks,
            seed=self.recipe.seed,
        )

    def gradients(self, batch: Batch, step: int, progress: float) -> Tensor:
        """Forward and backward of the batch; the engine takes the mean over the processes."""
        images = to_float(batch.images_TCHW, self.fabric.device)
        total, parts = self.module(images, progress, generator(self.recipe.seed, "restart", step))
        self.fabric.backward(total)
        for name, value in {"steps": torch.ones((), device=images.device), **parts}.items():
            self.sums.setdefault(name, torch.zeros(1, dtype=torch.float64, device=images.device)).add_(value.double())
        loss: Tensor = total.detach()
        return loss

    def read(self) -> dict[str, Any]:
        """Return the mean of each part over steps and processes."""
        for _, value in sorted(self.sums.items()):
            add_up(value)
        steps = float(self.sums.get("steps", 0.0))
        if not steps:  # all were left out
            return {}
        record = {name: float(value) / steps for name, value in self.sums.items() if name != "steps"}
        for value in self.sums.values():
            value.zero_()
        return record

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Yield first views only; a second one would be another sample of the same."""
        training = self.recipe.training
        assert training is not None
        seed = derive(self.recipe.seed, "tokenizer-views")
        share = Share(rank(), world())
        for batch in batches(self.dataset, self.order, first, last, seed, training.workers, share):
            yield replace(batch, images_TCHW=batch.images_TCHW[: len(batch.index_B)], views=1)

    def moving(self) -> dict[str, Tensor]:
        """Return what follows no gradient: codes and their running means."""
        return self._moving

    @property
    def kept(self) -> Checkpointed:
        """Weights, codebook statistics and optimiser."""
        return self._kept

    def note(self, record: dict[str, Any]) -> str:
        """Say loss and codes in use."""
        return f"loss {record['loss']:.4f}  codes used {record.get('codes_used', 0):.0f}"


def to_float(images_TCHW: Tensor, device: torch.device) -> Tensor:
    """uint8 images to float32 in [0, 1] on the device."""
    return images_TCHW.to(device, non_blocking=True).float().div_(255)


def tokenizer_precision(recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> Decision:
    """Probe which precision trains this tokenizer faster, on a copy."""
    assert recipe.training is not None
    probed = copy.deepcopy(tokenizer).to(device)
    probed.start_training()
    height, width = tokenizer.image_size
    count = max(1, min(32, _PROBED // (height * width)))
    images = torch.rand(count, tokenizer.channels, height, width, device=device)

    def run() -> None:
        probed.objective(images, 0.0, torch.Generator().manual_seed(0)).total.backward()

    return choose_precision(recipe.training.precision, device, run)


def token_precision(tokenizer: Tokenizer, dataset: Dataset, device: torch.device, asked: str) -> Decision:
    """Let a trained tokenizer run in bfloat16 only where it gives nearly the same ids as in float32.

    Args:
        tokenizer: One with codes, on the device.
        dataset: Whose first images are looked at.
        device: Where.
        asked: "float32" settles it.
    """
    if asked == "float32" or not bfloat16_products(device):
        why = "precision 'float32' was asked for" if asked == "float32" else f"{device.type} has no bfloat16 products"
        return Decision("float32", why)
    stills: list[Tensor] = []
    for index in range(len(dataset)):
        with contextlib.suppress(BrokenImageError):
            stills.append(torch.from_numpy(dataset.still(index).views[0]))
        if len(stills) == _COMPARED:
            break
    if not stills:
        return Decision("float32", "no image could be read to compare ids on")
    share = token_agreement(tokenizer, to_float(torch.stack(stills), device))
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
