"""What a recipe asks of the kernels: refused before anything is trained if it cannot run, else chosen by measuring."""

from __future__ import annotations

import torch
from mage_kernels import choose_attention, survey
from mage_kernels.attention import attention_problem
from torch import nn

from mage_kit.blocks import SelfAttention
from mage_kit.classifier import MageClassifier
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.errors import RecipeError
from mage_kit.model import Mage
from mage_kit.precision import Decision
from mage_kit.recipe import Recipe

AnyRecipe = Recipe | ClassifierRecipe
AnyModel = Mage | MageClassifier


def check_kernels(recipe: AnyRecipe, model: AnyModel, device: torch.device) -> None:
    """Try what the recipe asks for by name.

    Args:
        recipe: With training.
        model: Its model; the meta device will do.
        device: Where training would run.

    Raises:
        RecipeError: If a backend or an attention form cannot run there.
    """
    kernels, found = recipe.kernels, []
    if kernels.backend == "triton":
        try:
            survey(device, kernels.backend)
        except ValueError as error:
            found.append(f"$.kernels.{error}")
    if kernels.attention != "auto":
        for part in (model.encoder, model.decoder) if isinstance(model, Mage) else (model.encoder,):
            problem = _attention_problem(recipe, model, part, device)
            if problem is not None:
                found.append(f"$.kernels.attention: {kernels.attention}, cannot train here: {problem}")
                break
    if found:
        raise RecipeError(found, recipe.name)


def part_attention(
    recipe: AnyRecipe, model: AnyModel, part: nn.Module, device: torch.device, precision: str
) -> Decision:
    """Choose the attention form of the encoder or the decoder: as asked, else the faster one at its shape."""
    block = next((module for module in part.modules() if isinstance(module, SelfAttention)), None)
    if block is None:
        return Decision("sdpa", "no attention in it")
    if recipe.kernels.attention != "auto":
        return Decision(recipe.kernels.attention, f"attention '{recipe.kernels.attention}' was asked for")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    shape = _shape(recipe, model, part, block)
    choice = choose_attention(recipe.kernels.backend, device, dtype, shape, block.dropout)
    return Decision(choice.implementation, choice.reason)


def _attention_problem(recipe: AnyRecipe, model: AnyModel, part: nn.Module, device: torch.device) -> str | None:
    """Why the form asked for runs in none of the precisions that training may take."""
    block = next((module for module in part.modules() if isinstance(module, SelfAttention)), None)
    form, asked = recipe.kernels.attention, recipe.training.precision if recipe.training else "auto"
    if block is None or form == "auto":
        return None
    kinds = {"float32": [torch.float32], "bfloat16": [torch.bfloat16]}.get(asked, [torch.bfloat16, torch.float32])
    shape = _shape(recipe, model, part, block)
    problems = [attention_problem(form, device, kind, shape, block.dropout) for kind in kinds]
    return None if None in problems else problems[0]


def _shape(recipe: AnyRecipe, model: AnyModel, part: nn.Module, block: SelfAttention) -> tuple[int, int, int, int]:
    assert recipe.training is not None
    dropped = model.n_dropped if isinstance(model, Mage) and part is model.encoder else 0
    seen = 1 + model.spec.grid.size - dropped
    batch = recipe.training.micro_batch or recipe.training.batch
    return batch, block.heads, seen, block.qkv.in_features // block.heads
