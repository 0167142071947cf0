"""What one run gives another to start from: a model's weights, or a tokenizer that is trained once for many."""

from __future__ import annotations

from mage_kit.recipes.recipe import Recipe


def tokenizer_recipe(recipe: Recipe) -> Recipe | None:
    """Return the training of a recipe's tokenizer as a recipe of its own; None where the recipe trains none.

    Second views and distortions are left out: a tokenizer sees neither.
    """
    if not trains_tokenizer(recipe):
        return None
    alone = recipe.extended(
        name="tokenizer", model=None, pretrained=None, training=recipe.tokenizer_training, tokenizer_training=None
    )
    augment = None if alone.data is None else getattr(alone.data, "augment", None)
    if augment is None:
        return alone
    return alone.changed("data", augment={**augment.model_dump(mode="json"), "views": 1, "distortion": None})


def trains_same_tokenizer(recipe: Recipe, other: Recipe) -> bool:
    """Return whether two recipes train a tokenizer of the same form in the same way, on whatever images."""
    sections = ("tokenizer", "tokenizer_training")
    return trains_tokenizer(recipe) and recipe.fingerprint(*sections) == other.fingerprint(*sections)


def starting_from(recipe: Recipe, folder: str) -> Recipe:
    """Return a recipe that starts from a run: its model where the recipe takes a pretrained one, else its tokenizer.

    Args:
        recipe: To change.
        folder: Of the run.
    """
    if recipe.pretrained is not None:
        return recipe.changed("pretrained", weights=folder)
    return recipe.extended(
        tokenizer={**recipe.tokenizer.model_dump(mode="json"), "weights": folder}, tokenizer_training=None
    )


def trains_tokenizer(recipe: Recipe) -> bool:
    """Return whether a recipe's tokenizer is trained first: patches are not, nor one whose weights are there."""
    return recipe.tokenizer_training is not None and recipe.tokenizer.get("weights") is None
