"""What a recipe's training costs a machine, in numbers that the planner reads instead of the recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mage_kit.base.errors import RecipeError
from mage_kit.base.length import steps_in
from mage_kit.base.signature import ComponentConfig
from mage_kit.models import Mage
from mage_kit.optimizers import OPTIMIZERS, AdamW
from mage_kit.recipes.answers import kind_of
from mage_kit.recipes.classifier_pass import as_masked
from mage_kit.recipes.recipe import Recipe


@dataclass(frozen=True)
class Workload:
    """One training of a masked model, or of a classifier.

    Args:
        name: Of the recipe.
        model: On the meta device, frozen where the recipe freezes it; a classifier as a model that hides nothing.
        batch: Images a step over all processes.
        micro_batch: Images at once in a process; None for its share.
        epochs: Passes over the data; None where `steps` say how long.
        low_precision: Whether products may be computed in bfloat16.
        state_values: float32 numbers that the optimizer keeps for each trained one.
        ema: Whether there is a running mean of the weights.
        shard: Whether weights, gradients and moments are spread over the processes.
        recompute: Whether blocks keep their inputs alone.
        cached: Whether tokens come from a cache.
        steps: Optimizer steps, instead of epochs.
    """

    name: str
    model: Mage
    batch: int
    micro_batch: int | None
    epochs: float | None
    low_precision: bool
    state_values: float
    ema: bool
    shard: bool
    recompute: bool
    cached: bool
    steps: int | None = None

    def length(self, images: int) -> int:
        """Return the steps over so many images."""
        return steps_in(self.epochs, self.steps, images // self.batch)


def workload(recipe: Recipe, model: Mage | None = None) -> Workload:
    """Return what a recipe's training costs, its model built without memory.

    Args:
        recipe: With a training.
        model: Its masked model on the meta device, where there is one already.

    Raises:
        RecipeError: If the recipe trains nothing, something of no length that it states, or two players.
    """
    training = recipe.training
    if training is None:
        raise RecipeError(["$.training: missing, there is nothing to plan"], recipe.name)
    if getattr(training, "adversary", None) is not None:
        rule = "has an adversary, which the planner does not count"
        raise RecipeError([f"$.training.kind: '{training.kind}', {rule}"], recipe.name)
    epochs, steps = (getattr(training, name, None) for name in ("epochs", "steps"))
    if epochs is None and steps is None:
        rule = "must be a task of epochs or steps to be planned"
        raise RecipeError([f"$.training.kind: '{training.kind}', {rule}"], recipe.name)
    if model is None:
        with torch.device("meta"):
            is_classifier = kind_of(recipe) == "classifier"
            model = as_masked(recipe.build_classifier()) if is_classifier else recipe.build_model()
    return Workload(
        name=recipe.name,
        model=model,
        batch=training.get("batch"),
        micro_batch=training.get("micro_batch"),
        epochs=epochs,
        low_precision=training.get("precision") != "float32",
        state_values=_state_values(training),
        ema=getattr(training, "ema", None) is not None,
        shard=getattr(training, "shard", False),
        recompute=recipe.kernels.recompute,
        cached=recipe.data is not None and recipe.data.kind == "token_cache",
        steps=steps,
    )


def _state_values(training: ComponentConfig) -> float:
    """What the task's optimizer keeps; of a task without such a keyword AdamW's."""
    config = getattr(training, "optimizer", None)
    return OPTIMIZERS.get(config.kind).cls.state_values if isinstance(config, ComponentConfig) else AdamW.state_values
