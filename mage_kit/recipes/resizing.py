"""A model at another image size: the same weights on a larger or smaller grid, learned positions resized.

Everything else of a model knows no size: convolutions, transformer blocks, tables of codes. Legend: N = 1 + L positions
(class first), L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from mage_kit.base.errors import MageKitError, misfits
from mage_kit.base.grid import TokenGrid
from mage_kit.layers.embedding import resize_positions
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes.build import build
from mage_kit.recipes.recipe import Recipe

Model = TypeVar("Model", bound=Mage | MageClassifier)

POSITIONS = ("embedding.positions_ND", "decoder.positions_NE")
"""Learned positions in a model's state."""


def at_size(model: Model, image_size: tuple[int, int]) -> Model:
    """Return a model for images of another size, with the same weights, positions resized (bicubic).

    Args:
        model: Of registered parts; it is left as it is.
        image_size: Height and width in pixels.

    Returns:
        A new model in the same mode, on the same device; the model itself where it has that size.

    Raises:
        MageKitError: If it is no size, the tokenizer cannot have it, or other weights of the model know their size.
    """
    size = check_size(image_size)
    if size is None or tuple(model.tokenizer.image_size) == size:
        return model
    recipe = sized(Recipe.of(model), size)
    resized = build(recipe).model
    assert resized is not None
    state = resized_state(model.state_dict(), model.spec.grid, resized.spec.grid)
    needs, has = ({name: tuple(each.shape) for name, each in part.items()} for part in (resized.state_dict(), state))
    lines = misfits(needs, has)
    if lines:
        rule = "only learned positions of embedding and decoder are resized"
        raise MageKitError(f"image_size: {list(size)}, {rule}; {'; '.join(lines[:3])}")
    resized.load_state_dict(state)
    resized.to(model.device).train(model.training)
    for mine, theirs in zip(resized.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return resized  # type: ignore[return-value]  # a recipe of one kind builds a model of that kind


def sized(recipe: Recipe, image_size: tuple[int, int]) -> Recipe:
    """Return a recipe with all its tokenizers at another image size.

    Raises:
        RecipeError: If one of them cannot have that size.
    """
    stated: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True)
    targets = (stated["model"] or {}).get("targets") or {}
    for place in (stated["tokenizer"], *targets.values()):
        if "image_size" not in place:
            raise MageKitError(f"image_size: {list(image_size)}, the tokenizer '{place['kind']}' has no such keyword")
        place["image_size"] = list(image_size)
    return recipe.extended(tokenizer=stated["tokenizer"], model=stated["model"])


def resized_state(tensors: Mapping[str, Tensor], old: TokenGrid, new: TokenGrid) -> dict[str, Tensor]:
    """Return a model's tensors with learned positions resized from one grid to another."""
    return {
        name: resize_positions(tensor, old, new) if name in POSITIONS else tensor for name, tensor in tensors.items()
    }


def resize_words(old: TokenGrid, new: TokenGrid) -> str:
    """Return in words what was done to positions."""
    return f"positions of {old.height}x{old.width} tokens resized to {new.height}x{new.width} (bicubic)"


def check_size(size: object) -> tuple[int, int] | None:
    """Return an image size that is one, or None.

    Raises:
        MageKitError: If it is anything else.
    """
    if size is None:
        return None
    if not isinstance(size, tuple) or len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise MageKitError(f"image_size: {size!r}, must be a pair (height, width) of positive numbers")
    return size[0], size[1]
