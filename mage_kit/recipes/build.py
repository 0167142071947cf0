"""The parts of a recipe: what is stored in a folder, planned, or trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mage_kit.base.errors import RecipeError
from mage_kit.base.grid import TokenGrid
from mage_kit.base.machine import memory_size
from mage_kit.base.signature import NoWires
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes.assemble import part_forms
from mage_kit.recipes.recipe import Recipe, require_recipe
from mage_kit.recipes.sections import ClassifierSection, MageSection
from mage_kit.tokenizers import TOKENIZERS, TOKENS, Tokenizer


@dataclass(frozen=True)
class Parts:
    """What a recipe describes, with weights initialised from its seed.

    Args:
        tokenizer: The model's, or the tokenizer that the recipe is of.
        model: A masked model or a classifier; None of a tokenizer alone.
    """

    tokenizer: Tokenizer
    model: Mage | MageClassifier | None


def build(recipe: Recipe, tokenizer: Tokenizer | None = None) -> Parts:
    """Build a recipe's parts, each once; on the meta device (`with torch.device("meta")`) without memory.

    Args:
        recipe: Of whatever is to be built.
        tokenizer: Takes the place of the recipe's.

    Raises:
        RecipeError: With every problem of the parts; or this machine's memory does not hold their weights.
    """
    require_recipe(recipe)
    if torch.get_default_device().type != "meta":
        with torch.device("meta"):
            form = build_fitting(recipe)
        require_memory(form, recipe.name)
    return build_fitting(recipe, tokenizer)


def require_memory(parts: Parts, name: str) -> None:
    """Make sure that this machine's memory holds the weights of parts, which may be on the meta device.

    Raises:
        RecipeError: If it does not; `name` is the recipe's.
    """
    size, room = weight_bytes(parts), memory_size()
    if size > room:
        words = f"its weights take {size / 2**30:,.1f} GiB, this machine's memory is {room / 2**30:,.1f} GiB"
        raise RecipeError([f"$: {words}"], name)


def weight_bytes(parts: Parts) -> int:
    """Return the bytes that the weights and buffers of all parts take."""
    whole = parts.tokenizer if parts.model is None else parts.model
    return sum(value.numel() * value.element_size() for value in whole.state_dict().values())


def build_fitting(recipe: Recipe, tokenizer: Tokenizer | None = None) -> Parts:
    """Build what is known to fit into memory, as after `require_memory`; see `build`."""
    if recipe.model is None:
        return Parts(tokenizer or recipe.build_tokenizer(), None)
    model: Mage | MageClassifier
    if isinstance(recipe.model, ClassifierSection):
        model = recipe.build_classifier(tokenizer)
    else:
        model = recipe.build_model(tokenizer)
    return Parts(model.tokenizer, model)


def untrained_like(recipe: Recipe, model: Mage) -> Mage:
    """Return a trained model's baseline: the recipe's first weights, on the same trained tokenizers.

    Args:
        recipe: Of the model.
        model: Trained; its tokenizer is shared, other tokenizers' weights are copied.
    """
    untrained = recipe.build_model(model.tokenizer)
    untrained.targets.load_state_dict(model.targets.state_dict())
    return untrained.to(model.device).eval()


@dataclass(frozen=True)
class Forms:
    """What weights of a recipe fit: the recipe forms of its parts, as JSON values.

    Args:
        tokenizer: Kind and keywords.
        kind: Of the model; None of a tokenizer alone.
        encoder: The model's; None of a tokenizer alone.
        embedding: The same.
        input: Stream that the encoder sees.
        targets: Other tokenizers, by name.
    """

    tokenizer: dict[str, Any]
    kind: str | None = None
    encoder: dict[str, Any] | None = None
    embedding: dict[str, Any] | None = None
    input: str = TOKENS
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_forms(file: Path) -> Forms:
    """Return the forms of the parts of the recipe that lies beside some weights.

    Args:
        file: The recipe.

    Raises:
        RecipeError: If it is none.
    """
    recipe = Recipe.load(file)
    tokenizer, section = recipe.tokenizer.model_dump(mode="json"), recipe.model
    if not isinstance(section, MageSection | ClassifierSection):
        return Forms(tokenizer)
    encoder, embedding = (part.model_dump(mode="json") for part in (section.encoder, section.embedding))
    others = section.targets if isinstance(section, MageSection) else {}
    targets = {name: target.model_dump(mode="json") for name, target in others.items()}
    return Forms(tokenizer, section.kind, encoder, embedding, section.input, targets)


def read_part_forms(file: Path) -> dict[str, dict[str, Any] | None]:
    """Return `part_forms` of the masked model whose recipe lies beside some weights; nothing for other recipes."""
    with torch.device("meta"):
        model = build_fitting(Recipe.load(file)).model
    return part_forms(model) if isinstance(model, Mage) else {}


def grid_of_form(form: dict[str, Any]) -> TokenGrid:
    """Return the token grid of a tokenizer's recipe form; nothing is built but on the meta device."""
    config = TOKENIZERS.parse(form)
    with torch.device("meta"):
        return TOKENIZERS.build(config, NoWires()).spec.grid
