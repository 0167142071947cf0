"""A model that starts from another one's encoder, and labels for decoders that are told the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mage_kit.classifier import MageClassifier
from mage_kit.classifier_recipe import ClassifierRecipe
from mage_kit.datasets import Dataset
from mage_kit.encoders import ENCODERS
from mage_kit.errors import MageKitError, RecipeError
from mage_kit.loading import load
from mage_kit.model import Mage
from mage_kit.recipe import Recipe
from mage_kit.storage import describe_tokenizer, load_state
from mage_kit.tokenizers import Tokenizer

_FREE = frozenset({"dropout"})  # keywords under which the same weights may serve


def fill_encoder(model: Mage | MageClassifier, recipe: Recipe | ClassifierRecipe) -> None:
    """Give a model, in every process, the encoder and the embedding that its recipe names, if any.

    Args:
        model: With its tokenizer; changed in place.
        recipe: Of the model.

    Raises:
        RecipeError: See `find_encoder`.
    """
    found = find_encoder(model, model.tokenizer, recipe)
    if found is None or recipe.pretrained is None:
        return
    load_state(model.embedding, found.embedding.state_dict(), recipe.pretrained.weights)
    if isinstance(model, MageClassifier):
        found.encoder.norm = nn.Identity()  # features are taken before it
    load_state(model.encoder, found.encoder.state_dict(), recipe.pretrained.weights)


def find_encoder(model: Mage | MageClassifier, tokenizer: Tokenizer, recipe: Recipe | ClassifierRecipe) -> Mage | None:
    """Return the model that the recipe names, if it can give its encoder; None where it names none.

    Args:
        model: The one to be trained; on the meta device it will do.
        tokenizer: The one it is trained with.
        recipe: Of the model.

    Raises:
        RecipeError: If there is no such model, its encoder is of another form, or it knows another tokenizer.
    """
    if recipe.pretrained is None:
        return None
    folder = Path(recipe.pretrained.weights)
    try:
        found = load(folder)
    except MageKitError as error:
        hint = "" if folder.exists() else " (train it first, or name one with --set pretrained.weights=DIR)"
        raise RecipeError([f"$.pretrained.weights: {error}{hint}"], recipe.name) from None
    section = "classifier" if isinstance(model, MageClassifier) else "model"
    lines = _differing(f"$.{section}.encoder", ENCODERS.describe(model.encoder), ENCODERS.describe(found.encoder))
    configs = (held.embedding.config.model_dump(mode="json") for held in (model, found))
    lines += _differing(f"$.{section}.embedding", *configs)
    if not lines and describe_tokenizer(tokenizer) != describe_tokenizer(found.tokenizer):
        lines = ["$.tokenizer and $.pretrained.weights: the pretrained model knows the tokens of another tokenizer"]
    if lines:
        raise RecipeError(lines, recipe.name)
    return found


def check_labels(recipe: Recipe, model: Mage, dataset: Dataset) -> None:
    """Refuse data whose classes are not those that the decoder is to be told of.

    Raises:
        RecipeError: Naming both.
    """
    wanted, has = model.decoder.classes, len(dataset.classes)
    if wanted is None or wanted == has:
        return
    what = f"{has} classes" if has else "no labels"
    raise RecipeError([f"$.model.decoder.classes and $.data: {wanted}, the data has {what}"], recipe.name)


def _differing(path: str, wanted: dict[str, Any], held: dict[str, Any]) -> list[str]:
    names = [name for name in wanted if name not in _FREE and wanted[name] != held.get(name)]
    return [f"{path}.{name}: {wanted[name]}, the pretrained one has {held.get(name)}" for name in names]
