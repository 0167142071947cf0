"""Training from Python, by one call, as the command line does it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from mage_kit.errors import MageKitError, MissingExtraError

if TYPE_CHECKING:
    from mage_kit.classifier_recipe import ClassifierRecipe
    from mage_kit.recipe import Recipe


AnyRecipe = TypeVar("AnyRecipe", bound="Recipe | ClassifierRecipe")


def on_tokens(recipe: AnyRecipe, cache: Path) -> AnyRecipe:
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
    tokenizer["weights"] = tokenizer["weights"] or str(cache)
    return cast("AnyRecipe", recipe.extended(data=data, tokenizer=tokenizer))


def train(recipe: Recipe | ClassifierRecipe, out: str | os.PathLike[str], *, resume: bool = False) -> Path:
    """Train tokenizer and model, or a classifier, as a recipe says.

    Args:
        recipe: With data and training; `Recipe.of(model).extended(...)` makes one of a model composed in Python.
        out: The run folder; new or empty, unless `resume`.
        resume: Go on from the newest checkpoint.

    Returns:
        The run folder, for `mage_kit.load` or `mage_kit.load_classifier`.

    Raises:
        MageKitError: If the folder holds something else, the data cannot be read, or training goes wrong.
        TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
    """
    try:
        # These bring lightning, which importing mage_kit must not.
        from mage_kit.training.classifier_run import train_classifier
        from mage_kit.training.run import train as run
    except ImportError as error:
        if not (error.name or "").startswith("lightning"):
            raise
        raise MissingExtraError("training", "train") from None
    from mage_kit.classifier_recipe import ClassifierRecipe
    from mage_kit.jobs.samples import draw_samples

    if isinstance(recipe, ClassifierRecipe):
        return train_classifier(recipe, Path(out), resume=resume)
    return run(recipe, Path(out), resume=resume, draw=draw_samples)
