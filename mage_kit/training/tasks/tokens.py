"""What tasks share that train a model on the tokens of a frozen tokenizer: length, rate, precision, tokenizing."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.base.errors import BrokenImageError, RecipeError
from mage_kit.base.length import Length
from mage_kit.base.precision import Decision, bfloat16_products
from mage_kit.base.signature import ComponentConfig
from mage_kit.datasets import Dataset
from mage_kit.optimizers import build_optimizer
from mage_kit.tokenizers.streams import TOKENISED_AT_ONCE
from mage_kit.training.batches import IMAGES
from mage_kit.training.kernels import part_attention
from mage_kit.training.players import Player, Rate
from mage_kit.training.tasks.base import Task, layer_problems, to_float
from mage_kit.training.tasks.context import Choose, Context, Facts

AGREEMENT = 0.98  # of bfloat16 ids with float32 ids, below which the tokenizer runs in float32
_COMPARED = 64  # images that agreement is measured on


class TokenTask(Task):
    """Trains one model, its tokenizer frozen, at a learning rate of base_lr x batch / 256.

    Attributes:
        model: With `tokenizer` and `spec`.
        images: What it is trained on.
        epochs, steps: How long; one of them is None.
        warmup_epochs, warmup_steps: The same of the warm-up.
    """

    model: Any
    images: Dataset
    epochs: float | None
    warmup_epochs: float | None
    steps: int | None = None
    warmup_steps: int | None = None
    base_lr: float
    min_lr: float
    optimizer: ComponentConfig
    clip: float | None
    ema: float | None
    _bfloat16_tokens = False

    @abstractmethod
    def attentive(self) -> dict[str, nn.Module]:
        """Return the parts whose attention form is chosen, by name; their shapes differ."""

    def problems(self, facts: Facts) -> list[str]:
        """Layer-wise rates of a model without layers to train."""
        return layer_problems(f"{facts.path}.optimizer", self.optimizer, self.model)

    def accept(self, images: Dataset, validation: Dataset | None, seed: int, path: str) -> Dataset:
        """Take the images."""
        self.images = images
        gaps = [name for name in self.model.reads if images.gives_tokens and name not in images.streams]
        if gaps:
            rule = f"the cache holds {', '.join(images.streams)}; make it again with mage-kit tokenize"
            raise RecipeError([f"$.data.path: no stream '{gaps[0]}', which the model reads; {rule}"])
        return images

    @property
    def span(self) -> Length:
        """Length and warm-up.

        Raises:
            ValueError: If either is given twice, or not at all.
        """
        return Length(self.epochs, self.steps, self.warmup_epochs, self.warmup_steps)

    def length(self, steps_per_epoch: int) -> int:
        """Return the steps in all."""
        return self.span.of(steps_per_epoch)

    def decide(self, choose: Choose, device: torch.device, precision: str, images: int) -> None:
        """Choose what the tokenizer computes in, and the attention form of each part."""
        model = self.model

        def tokenization() -> Decision:
            return token_decision(model, self.images, device, precision)

        self._bfloat16_tokens = choose("tokenization", "tokenizing in {}", tokenization).value == "bfloat16"
        for name, part in self.attentive().items():

            def form(part: nn.Module = part) -> Decision:
                return part_attention(model, part, device, precision, images)

            name_of_form = choose(f"attention_{name}", f"attention of the {name} by {{}}", form).value
            by_name = model.attention != "auto" or model.backend == "reference"
            model.set_attention(name_of_form, None if by_name else "sdpa", part)

    def enter(self, context: Context) -> None:
        """Lay the tokenizers out as convolutions run faster."""
        super().enter(context)
        for tokenizer in (self.model.tokenizer, *self.model.targets.values()):
            tokenizer.to(memory_format=torch.channels_last)

    def rate(self) -> Rate:
        """Return the learning rate by step, down to the least."""
        context = self.context
        batch = context.layout.batch
        peak = self.base_lr * batch / 256
        context.reporter.say(f"learning rate {peak:g} = base_lr {self.base_lr:g} x {batch} images / 256")
        return Rate(peak, self.span.warm_up(context.steps_per_epoch), self.min_lr)

    def players(self) -> Sequence[Player]:
        """Return the model alone."""
        optimizer = build_optimizer(self.optimizer)
        return [Player("model", self.model, self.rate(), optimizer, clip=self.clip, ema=self.ema)]

    def encode(self, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the streams of a piece of a batch: those of a token cache as they are, else of uint8 images."""
        device = self.context.device
        if IMAGES in content:
            return self.encode_floats(to_float(content[IMAGES], device))
        return {
            name: tensor.to(device, tensor.dtype if tensor.is_floating_point() else torch.int64, non_blocking=True)
            for name, tensor in content.items()
            if name in self.model.reads  # a cache may hold more
        }

    @torch.no_grad()
    def encode_floats(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return streams of float images in [0, 1], in the precision that was chosen for the tokenizer."""
        with torch.autocast(self.context.device.type, torch.bfloat16, enabled=self._bfloat16_tokens):
            parts = [self.model.tokenize(part) for part in images_BCHW.split(TOKENISED_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def token_decision(model: Any, images: Dataset, device: torch.device, precision: str) -> Decision:
    """Let the frozen tokenizers run in bfloat16 only where they give nearly the same ids as in float32."""
    if images.gives_tokens:
        return Decision("float32", "tokens come from a cache")
    if precision == "float32":
        return Decision("float32", "the model runs in float32")
    if not all(model.streams[name].discrete for name in model.reads):
        return Decision("float32", "continuous tokens")
    for tokenizer in (model.tokenizer, *model.targets.values()):
        tokenizer.to(device)
    return token_precision(model.tokenize, images, device, precision)


def token_precision(
    tokenize: Callable[[Tensor], Mapping[str, Tensor]], images: Dataset, device: torch.device, precision: str
) -> Decision:
    """Compare ids in bfloat16 with those in float32; the stream that differs most counts.

    Args:
        tokenize: Gives the streams of codes that are read, of float images on the device.
        images: Of which the first are looked at.
        device: Where.
        precision: "float32" settles it.
    """
    if precision == "float32" or not bfloat16_products(device):
        why = (
            "precision 'float32' was asked for" if precision == "float32" else f"{device.type} has no bfloat16 products"
        )
        return Decision("float32", why)
    stills: list[Tensor] = []
    for index in range(len(images)):
        with contextlib.suppress(BrokenImageError):
            stills.append(torch.from_numpy(images.still(index).views[0]))
        if len(stills) == _COMPARED:
            break
    if not stills:
        return Decision("float32", "no image could be read to compare ids on")
    floats = to_float(torch.stack(stills), device)
    share = token_agreement(tokenize, floats)
    value = "bfloat16" if share >= AGREEMENT else "float32"
    return Decision(value, f"ids in bfloat16 agree with float32's in {share:.1%} of tokens (needed: {AGREEMENT:.0%})")


@torch.no_grad()
def token_agreement(tokenize: Callable[[Tensor], Mapping[str, Tensor]], images_BCHW: Tensor) -> float:
    """Return the share of tokens whose ids, all of them, are the same in bfloat16 and in float32.

    Args:
        tokenize: Gives streams of ids (B, L) or (B, L, F); of several the one that differs most counts.
        images_BCHW: float images in [0, 1], on the tokenizers' device.
    """
    with torch.autocast(images_BCHW.device.type, torch.bfloat16):
        fast = tokenize(images_BCHW)
    exact = tokenize(images_BCHW)
    same = {name: (ids == exact[name]).flatten(2).all(dim=2) if ids.ndim > 2 else ids == exact[name]
            for name, ids in fast.items()}  # fmt: skip
    return min(float(each.double().mean()) for each in same.values())
