"""The largest memory of a training step, from formulas; docs/planning.md derives them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mage_kit.models.mage import Mage
from mage_kit.optimizers import AdamW
from mage_kit.planning.walk import Numbers, walk_step, walk_tokenizers
from mage_kit.tokenizers.streams import TOKENISED_AT_ONCE

_LOGIT_COPIES = 3  # float32 logits that exist beside the kept ones where the loss turns from forward to backward
_MAPS = 5  # largest feature maps of the tokenizer that exist at once: input, norm, activation, product, sum


@dataclass(frozen=True)
class Memory:
    """Bytes, in one process.

    Args:
        weights: Trained weights, float32, the tokenizer's too.
        gradients: As large as the trained weights.
        optimizer: What it keeps for each weight: of AdamW two moments.
        mean: Of the weights, where the recipe has one.
        low: Copies of the weight matrices in bfloat16, which live as long as autocast does.
        kept: What the forward pass keeps for the backward pass.
        passing: What exists for a moment at the turn from forward to backward.
        tokenizer: What the tokenizer needs while it encodes.
        accumulates: Whether gradients exist already while the pass runs.
    """

    weights: float
    gradients: float
    optimizer: float
    mean: float
    low: float
    kept: float
    passing: float
    tokenizer: float
    accumulates: bool

    @property
    def standing(self) -> float:
        """What is there all the time."""
        return self.weights + self.optimizer + self.mean + (self.gradients if self.accumulates else 0.0)

    @property
    def peak(self) -> float:
        """The largest sum: at the turn to backward, at its end, or while images are tokenised."""
        at_turn = self.low + self.kept + self.passing
        at_end = 0.0 if self.accumulates else self.gradients + self.low
        return self.standing + max(at_turn, at_end, self.tokenizer)


def memory_of_step(
    model: Mage,
    images: int,
    ratio: float,
    numbers: Numbers,
    *,
    state_values: float = AdamW.state_values,
    ema: bool = False,
    recompute: bool = False,
    accumulates: bool = False,
    shards: int = 1,
    tokens_cached: bool = False,
) -> Memory:
    """Return the memory of a pass over `images` images in one process.

    Args:
        model: On the meta device.
        images: At once in the process.
        ratio: Mask ratio of all.
        numbers: Bytes of a value.
        state_values: float32 numbers that the optimizer keeps for each trained one.
        ema: Whether there is a running mean of the weights.
        recompute: Whether blocks keep their inputs alone.
        accumulates: Whether a step has more than one pass.
        shards: Processes over which weights, gradients and moments are spread.
        tokens_cached: Whether the tokenizer is out of the loop.
    """
    trainable = 4.0 * sum(value.numel() for _, value in model.trainable())
    frozen = 4.0 * sum(value.numel() for value in model.parameters() if not value.requires_grad)
    matrices = sum(
        part.weight.numel()
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and not name.startswith(("tokenizer", "targets"))
    )
    costs = walk_step(model, images, ratio, numbers)
    activations = sum(cost.activations for cost in costs.values())
    if recompute:
        blocks = costs["encoder"], costs["decoder"]
        activations += sum(cost.inputs - cost.block for cost in blocks) + max(cost.largest for cost in blocks)
    at_once = min(images * model.views, TOKENISED_AT_ONCE)
    largest = 0.0 if tokens_cached else walk_tokenizers(model, at_once)[1]
    logits = costs["losses"].activations
    return Memory(
        weights=trainable / shards + frozen,
        gradients=trainable if accumulates else trainable / shards,  # summed whole until the last pass sends them
        optimizer=state_values * trainable / shards,
        mean=trainable / shards if ema else 0.0,
        low=2.0 * matrices if numbers.low == 2 else 0.0,
        kept=activations,
        passing=_LOGIT_COPIES * logits,
        tokenizer=_MAPS * largest,
        accumulates=accumulates,
    )
