"""What a tokenizer's training costs a machine, as the planner reads it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mage_kit.adversaries import ADVERSARIES, Adversary, AdversaryWires, build_adversary
from mage_kit.base.errors import RecipeError
from mage_kit.base.signature import ComponentConfig
from mage_kit.optimizers import OPTIMIZERS
from mage_kit.recipes.recipe import Recipe
from mage_kit.tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenizerWorkload:
    """One training of a tokenizer.

    Args:
        name: Of the recipe.
        tokenizer: On the meta device; what is not trained requires no gradient.
        adversary: On the meta device; None where there is none.
        perceptual: Recipe form of the perceptual distance; None where there is none.
        batch: Images a step over all processes.
        micro_batch: Images at once in a process; None for its share.
        steps: Optimizer steps.
        state_values: float32 numbers that the optimizer keeps for each trained one.
        ema: Whether there is a running mean of the weights.
        decoder_alone: Whether the encoder is frozen.
        penalty: Whether the adversary's gradient at pictures is trained too (R1).
        adaptive: Whether gradients of the tokenizer's losses are compared at its last layer.
    """

    name: str
    tokenizer: Tokenizer
    adversary: Adversary | None
    perceptual: ComponentConfig | None
    batch: int
    micro_batch: int | None
    steps: int
    state_values: float
    ema: bool
    decoder_alone: bool
    penalty: bool = False
    adaptive: bool = False


def trains_tokenizer(recipe: Recipe) -> bool:
    """Return whether a recipe's training is that of a tokenizer alone."""
    return recipe.training is not None and recipe.model is None


def tokenizer_workload(recipe: Recipe) -> TokenizerWorkload:
    """Return what the training of a recipe of a tokenizer alone costs, built without memory.

    Raises:
        RecipeError: If its task is not counted in steps.
    """
    training = recipe.training
    assert training is not None
    steps = getattr(training, "steps", None)
    if not isinstance(steps, int):
        raise RecipeError([f"$.training.kind: '{training.kind}', must be a task of steps to be planned"], recipe.name)
    with torch.device("meta"):
        tokenizer, adversary = recipe.build_tokenizer(), None
        form = getattr(training, "adversary", None)
        if form is not None:
            adversary = build_adversary(ADVERSARIES.parse(form.model_dump(mode="json")), AdversaryWires.of(tokenizer))
    decoder_alone = getattr(training, "train", "all") == "decoder"
    tokenizer.start_training()
    if decoder_alone:
        tokenizer.train_decoder_alone()
    optimizer = getattr(training, "optimizer", None)
    return TokenizerWorkload(
        name=recipe.name,
        tokenizer=tokenizer,
        adversary=adversary,
        perceptual=getattr(training, "perceptual", None),
        batch=training.get("batch"),
        micro_batch=training.get("micro_batch"),
        steps=steps,
        state_values=OPTIMIZERS.get(optimizer.kind).cls.state_values if optimizer is not None else 2.0,
        ema=getattr(training, "ema", None) is not None,
        decoder_alone=decoder_alone,
        penalty=getattr(training, "gradient_penalty", 0.0) > 0,
        adaptive=getattr(training, "adaptive", False),
    )
