"""A recipe that trains on a token cache made from its own data."""

from __future__ import annotations

from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.recipes.recipe import Recipe
from mage_kit.tokenizers import TOKENIZERS


def on_tokens(recipe: Recipe, cache: Path) -> Recipe:
    """Return a recipe that trains on a token cache, which must have been made from the recipe's own data.

    The tokenizer is the cache's, unless the recipe names one.

    Raises:
        MageKitError: If the recipe has no data, or trains on a cache already.
    """
    if recipe.data is None or recipe.data.kind == "token_cache":
        raise MageKitError("$.data: must name the images that the cache was made from")
    source = recipe.data.model_dump(mode="json")
    views = source.get("augment", {}).get("views", 1)
    data = {"kind": "token_cache", "path": str(cache), "views": views, "source": source}
    tokenizer = recipe.tokenizer.model_dump(mode="json")
    if TOKENIZERS.get(recipe.tokenizer.kind).cls.needs_training:
        tokenizer["weights"] = tokenizer["weights"] or str(cache)
    return recipe.extended(data=data, tokenizer=tokenizer)
