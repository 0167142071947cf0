"""Where weights come from: folders of this program, each opened once, without building what they hold."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mage_kit.base.errors import MageKitError, RecipeError
from mage_kit.base.files import read_json, read_tensors
from mage_kit.base.manifest import warn_unverified
from mage_kit.base.signature import ComponentConfig
from mage_kit.recipes import Forms, read_forms
from mage_kit.recipes.build import read_part_forms
from mage_kit.store.folders import (
    MODEL_FILE,
    RECIPE_FILE,
    TOKENIZER_CARD,
    TOKENIZER_FILE,
    load_state,
    tokenizer_folder,
)
from mage_kit.tokenizers import Tokenizer


class WeightFolder:
    """A tokenizer's, a run's or a model's folder; what is read of it is kept while it is needed.

    Args:
        folder: It must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def forms(self) -> Forms:
        """What the recipe beside the weights says of their form.

        Raises:
            MageKitError: If there is none.
        """
        if not (self.folder / RECIPE_FILE).is_file():
            raise MageKitError(f"folder: '{self.folder}', holds no {RECIPE_FILE}, so is no model or run folder")
        return read_forms(self.folder / RECIPE_FILE)

    @cached_property
    def part_forms(self) -> dict[str, dict[str, Any] | None]:
        """Forms of a masked model's further parts, every keyword stated; see `recipes.assemble.part_forms`."""
        return read_part_forms(self.folder / RECIPE_FILE)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The model's tensors.

        Raises:
            MageKitError: If training has not ended, or the file is damaged.
        """
        file = self.folder / MODEL_FILE
        if not file.is_file():
            rule = "training has not ended (mage-kit train ... --resume)"
            raise MageKitError(f"folder: '{self.folder}', holds no {MODEL_FILE}: {rule}")
        tensors = read_tensors(file)
        warn_unverified(self.folder, RECIPE_FILE, MODEL_FILE)
        return tensors

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one part of the model, under their names in it."""
        before = f"{name}."
        return {key[len(before) :]: value for key, value in self.tensors.items() if key.startswith(before)}

    @cached_property
    def tokenizer(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The tokenizer's recipe form and its tensors: of its own folder where there is one, else the model's.

        Raises:
            MageKitError: If there is none, or it is damaged.
        """
        inner = tokenizer_folder(self.folder)
        if inner is None:
            return self.forms.tokenizer, self.part("tokenizer")
        form = read_json(inner / TOKENIZER_CARD).get("tokenizer")
        if not isinstance(form, dict):
            raise MageKitError(f"{inner / TOKENIZER_CARD}: damaged, must state a tokenizer")
        tensors = read_tensors(inner / TOKENIZER_FILE)
        warn_unverified(inner, TOKENIZER_CARD, TOKENIZER_FILE)
        return form, tensors


class WeightFolders:
    """Folders by place, each opened once however often it is asked for."""

    def __init__(self) -> None:
        self._folders: dict[Path, WeightFolder] = {}

    def __call__(self, place: str) -> WeightFolder:
        """Return the folder at a place."""
        return self._folders.setdefault(Path(place).resolve(), WeightFolder(Path(place)))


def fill_tokenizer(
    tokenizer: Tokenizer, form: dict[str, Any], source: WeightFolder, name: str, path: str = "$.tokenizer"
) -> None:
    """Fill a tokenizer from a folder that this program wrote or converted: a tokenizer's, a run's or a model's.

    Args:
        tokenizer: Changed in place.
        form: Its recipe form.
        source: The folder.
        name: Of the recipe, for errors.
        path: Of the tokenizer's section in it.

    Raises:
        RecipeError: If the folder holds no tokenizer, or one of another form.
    """
    folder = source.folder
    if not folder.is_dir():
        hint = "; convert a checkpoint first (mage-kit convert)" if folder.is_file() else ""
        raise RecipeError([f"{path}.weights: '{folder}', must be a folder with a tokenizer{hint}"], name)
    try:
        other, tensors = source.tokenizer
    except MageKitError as error:
        raise RecipeError([f"{path}.weights: {error}"], name) from None
    mine, theirs = _flat(form), _flat(other)
    differing = [
        f"{path}.{key}: {mine[key]}, the trained one has {theirs.get(key)}"
        for key in mine
        if key != "weights"
        and mine[key] != theirs.get(key)
        and not tokenizer.weights_fit(key, mine[key], theirs.get(key))
    ]
    if form["kind"] != other.get("kind"):
        differing = differing[:1]  # the keywords of another kind say nothing
    if differing:
        raise RecipeError(differing, str(folder))
    load_state(tokenizer, tensors, str(folder))
    tokenizer.requires_grad_(False).eval()


def _flat(form: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Keywords of a component and of those in its slots, as quantizer.codes."""
    flat: dict[str, Any] = {}
    for key, value in form.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def fill_target(tokenizer: Tokenizer, name: str, config: ComponentConfig, folder: WeightFolders, recipe: str) -> None:
    """Fill another tokenizer from the folder that its section names.

    Args:
        tokenizer: Changed in place.
        name: Of it.
        config: Its section.
        folder: Opens a folder, once.
        recipe: Name of the recipe, for errors.

    Raises:
        RecipeError: If it is of another form, or needs weights and has none.
    """
    path, weights = f"$.model.targets.{name}", config.get("weights")
    if not tokenizer.needs_training:
        return
    if weights is None:
        raise RecipeError([f"{path}.weights: null, must name a folder with a trained tokenizer"], recipe)
    fill_tokenizer(tokenizer, config.model_dump(mode="json"), folder(weights), recipe, path)


def read_tokenizer_card(folder: Path) -> dict[str, Any]:
    """Return a tokenizer's card; nothing where there is none, or it is damaged."""
    try:
        card = json.loads((folder / TOKENIZER_CARD).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return card if isinstance(card, dict) else {}
