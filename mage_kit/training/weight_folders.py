"""Where weights come from: folders of this program, each opened once, without building what they hold."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mage_kit.base.errors import MageKitError, RecipeError
from mage_kit.base.files import read_json, read_tensors
from mage_kit.base.manifest import warn_unverified
from mage_kit.base.signature import ComponentConfig
from mage_kit.encoders import ENCODERS
from mage_kit.layers.embedding import resize_positions
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes import Forms, grid_of_form, read_forms
from mage_kit.recipes.resizing import resize_words
from mage_kit.store.folders import (
    MODEL_FILE,
    RECIPE_FILE,
    TOKENIZER_CARD,
    TOKENIZER_FILE,
    load_state,
    tokenizer_folder,
    without_passing,
)
from mage_kit.tokenizers import Tokenizer
from mage_kit.tokenizers.streams import tokenizer_of

_FREE = frozenset({"dropout"})  # keywords under which the same weights may serve


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


def fill_encoder(model: Mage | MageClassifier, source: WeightFolder, name: str) -> list[str]:
    """Give a model the encoder and the embedding of another one; learned positions are resized to the model's grid.

    Args:
        model: With its tokenizer; changed in place.
        source: Folder of a masked model.
        name: Of the recipe, for errors.

    Returns:
        Lines to tell: which tensors were taken and which were not, and of positions that were resized.

    Raises:
        RecipeError: If there is no such model, its encoder is of another form, or it knows another tokenizer.
    """
    folder = source.folder
    try:
        forms, embedding, encoder = source.forms, source.part("embedding"), source.part("encoder")
    except MageKitError as error:
        hint = "" if folder.exists() else " (train it first, or name one with --set pretrained.weights=DIR)"
        raise RecipeError([f"$.pretrained.weights: {error}{hint}"], name) from None
    if forms.encoder is None or forms.embedding is None:
        raise RecipeError([f"$.pretrained.weights: '{folder}', must be the folder of a masked model"], name)
    lines = _differing("encoder", ENCODERS.describe(model.encoder), forms.encoder)
    lines += _differing("embedding", model.embedding.config.model_dump(mode="json"), forms.embedding)
    stream = model.input
    if forms.input != stream:
        rule = f"must be one whose encoder sees '{stream}' as this one does"
        lines.append(f"$.pretrained.weights: '{folder}', its encoder sees the stream '{forms.input}', {rule}")
    owner = tokenizer_of(stream, list(model.targets))
    place = "tokenizer" if owner is None else f"targets.{owner}"
    tokenizer = model.tokenizer if owner is None else model.targets[owner]
    assert isinstance(tokenizer, Tokenizer)
    if not lines and not _same(tokenizer, source.part(place)):
        path = place if owner is None else f"model.{place}"
        lines = [f"$.{path} and $.pretrained.weights: the pretrained model knows the tokens of another tokenizer"]
    if lines:
        raise RecipeError(lines, name)
    if isinstance(model.encoder.norm, nn.Identity):  # of a classifier, whose features are taken before it
        encoder = {key: value for key, value in encoder.items() if not key.startswith("norm.")}
    old, new = grid_of_form(forms.tokenizer if owner is None else forms.targets[owner]), model.spec.grid
    resizes = "positions_ND" in embedding and old != new
    if resizes:
        embedding["positions_ND"] = resize_positions(embedding["positions_ND"], old, new)
    load_state(model.embedding, embedding, str(folder))
    load_state(model.encoder, encoder, str(folder))
    lines = [f"pretrained encoder: {resize_words(old, new)}"] if resizes else []
    return [_account(model, len(embedding), len(encoder), folder), *lines]


def _account(model: Mage | MageClassifier, embedding: int, encoder: int, folder: Path) -> str:
    """Account for every tensor of a model: what was taken, and what begins anew."""
    fresh: dict[str, int] = {}
    for name in model.state_dict():
        part = name.partition(".")[0]
        if part not in ("tokenizer", "targets", "embedding", "encoder"):
            fresh[part] = fresh.get(part, 0) + 1
    words = ", ".join(f"{part} ({count})" for part, count in fresh.items())
    rest = f"; from the seed begin {words}" if fresh else ""
    return f"pretrained: embedding ({embedding} tensors) and encoder ({encoder}) of {folder}{rest}"


def _same(tokenizer: Tokenizer, tensors: dict[str, Tensor]) -> bool:
    """Whether a tokenizer has these weights, bit for bit; what training alone needs does not count."""
    mine = without_passing(tokenizer, tokenizer.state_dict())
    theirs = without_passing(tokenizer, tensors)
    return mine.keys() == theirs.keys() and all(
        mine[key].shape == theirs[key].shape and bool((mine[key].cpu() == theirs[key]).all()) for key in mine
    )


def _differing(part: str, form: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    names = [name for name in form if name not in _FREE and form[name] != theirs.get(name)]
    return [f"$.model.{part}.{name}: {form[name]}, the pretrained one has {theirs.get(name)}" for name in names]


def read_tokenizer_card(folder: Path) -> dict[str, Any]:
    """Return a tokenizer's card; nothing where there is none, or it is damaged."""
    try:
        card = json.loads((folder / TOKENIZER_CARD).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return card if isinstance(card, dict) else {}
