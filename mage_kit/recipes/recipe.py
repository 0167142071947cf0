"""Recipe: the JSON form of a run. One file, one run; every problem at once, with its path."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, Field, ValidationError

from mage_kit.base.errors import MageKitError, RecipeError
from mage_kit.base.fields import Seed
from mage_kit.base.json_text import parse_json, without_nulls
from mage_kit.base.plugins import consent, load_entry_points, load_plugins, stored_folders
from mage_kit.base.registry import Slot
from mage_kit.base.signature import ComponentConfig, Strict
from mage_kit.datasets import DATASETS, Dataset, DatasetWires
from mage_kit.datasets.class_names import open_by_names
from mage_kit.encoders import ENCODERS
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes.assemble import assemble_classifier, assemble_mage, assemble_tokenizer, describe_mage
from mage_kit.recipes.overrides import apply_override
from mage_kit.recipes.places import at
from mage_kit.recipes.problems import plugin_hint, problems
from mage_kit.recipes.recipe_file import read_recipe_file
from mage_kit.recipes.sections import MODELS, ClassifierSection, Evaluation, Kernels, MageSection, Pretrained
from mage_kit.recipes.shipped_recipes import recipe_place
from mage_kit.tokenizers import TOKENIZERS, Tokenizer

_TOLD = 50  # problems of one recipe


class Recipe(Strict):
    """A run; without `data` and `training` a bare model; without `model` a tokenizer.

    What is made is one of the kinds under `model` (or the tokenizer alone), how it is trained is one of the tasks under
    `training`. Each kind and each task owns its keys. Load one with `Recipe.load`; compose parts in Python instead
    where JSON is in the way.
    """

    schema_: str | None = Field(None, alias="$schema", description="Where editors find the schema.")
    name: str = Field(pattern=r"^\w[\w .-]*$", description="Name of the run, and of its folder in runs/.")
    plugins: tuple[str, ...] = Field((), description="Modules to import first; they may register components.")
    seed: Seed = Field(0, description="Every random draw of the run follows from it.")
    data: Annotated[ComponentConfig, DATASETS.slot()] | None = Field(None, description="Images; null: none are named.")
    fit: tuple[Literal["image_size", "channels"], ...] = Field(
        (), description="What the tokenizer takes from the images before training: a size that they have, or channels."
    )
    tokenizer: Annotated[ComponentConfig, TOKENIZERS.slot()]
    tokenizer_training: Annotated[ComponentConfig, Slot("tasks")] | None = Field(
        None, description="Task that trains the tokenizer first, where it is untrained; null if nothing is to train."
    )
    model: Annotated[ComponentConfig, Slot(MODELS)] | None = Field(
        None, description="What is built on the tokens; null for a tokenizer alone."
    )
    pretrained: Pretrained | None = Field(
        None, description="Encoder to start from, or to keep; null: everything is trained from random weights."
    )
    training: Annotated[ComponentConfig, Slot("tasks")] | None = Field(
        None, description="Task of the run; null where nothing is to train."
    )
    evaluation: Evaluation = Field(Evaluation(), description="How a run is measured.")
    kernels: Kernels = Field(Kernels(), description="Which implementations run.")

    # -- from JSON and back ------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Sequence[str] = (), *, plugins: bool = False) -> Self:
        """Read a recipe file, change what `overrides` name, validate.

        Args:
            path: JSON file; or the name of a recipe that ships, as "digits".
            overrides: `a.b=VALUE` each; VALUE is JSON, else a string; a component's kind alone names it with defaults.
            plugins: Whether modules may run that the current folder, or the recipe's, alone has; see `base.plugins`.

        Raises:
            RecipeError: With every problem of the recipe.
        """
        file = recipe_place(path)
        data = read_recipe_file(file)
        return cls.parse(data, overrides, source=str(file), folder=file.resolve().parent, plugins=plugins)

    @classmethod
    def parse(
        cls,
        data: Any,
        overrides: Sequence[str] = (),
        source: str = "recipe",
        folder: Path | None = None,
        *,
        plugins: bool = False,
    ) -> Self:
        """Validate JSON data as a recipe; see `load`."""
        if not isinstance(data, dict):
            raise RecipeError(["$: must be an object"], source)
        try:
            data = parse_json(json.dumps(data))
        except (RecursionError, TypeError, ValueError) as error:
            raise RecipeError([f"$: must be JSON ({error})"], source) from None
        for override in overrides:
            apply_override(data, override)
        broken, lines = load_entry_points(), []
        names = data.get("plugins", [])
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            with consent(plugins):
                lines = load_plugins(names, folder, None if folder is None else stored_folders(folder))
        try:
            recipe = cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            # A broken package that is installed matters only where something is missing.
            every = problems(error, cls, data)
            hint = plugin_hint(every, names if isinstance(names, list) else [])
            more = [f"and {len(every) - _TOLD} more"] if len(every) > _TOLD else []
            raise RecipeError(lines + every[:_TOLD] + more + hint + broken, source) from None
        if lines:
            raise RecipeError(lines, source)
        return recipe

    def to_json(self) -> str:
        """Return the recipe as JSON text, every number stated."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude={"schema_"}), indent=2) + "\n"

    def extended(self, **sections: Any) -> Self:
        """Return this recipe with whole sections replaced, as `data={"kind": "image_folder", "path": "photos"}`.

        Raises:
            RecipeError: With every problem of the result.
        """
        stated = {
            name: value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
            for name, value in sections.items()
        }
        return self.parse({**self.model_dump(mode="json", by_alias=True), **stated}, source=self.name)

    def changed(self, section: str, **values: Any) -> Self:
        """Return this recipe with some values of a section replaced.

        Raises:
            RecipeError: With every problem of the result; or there is no such section.
        """
        whole = self.model_dump(mode="json", by_alias=True)
        before = whole.get(section)
        if not isinstance(before, dict):
            sections = [name for name, value in whole.items() if isinstance(value, dict)]
            has = "null here; give the whole of it to `extended`" if section in whole else "no section"
            raise RecipeError([f"$.{section}: {has} (sections: {', '.join(sections)})"], self.name)
        return self.extended(**{section: {**before, **values}})

    def overridden(self, overrides: Sequence[str]) -> Self:
        """Return this recipe with changes, as `load` takes them and with the problems that it finds."""
        return self.parse(self.model_dump(mode="json", by_alias=True), overrides, source=self.name)

    def fingerprint(self, *sections: str) -> str:
        """Return a SHA-256 over some sections, none for all but the name; nulls, as new options are, are no part."""
        whole = self.model_dump(mode="json", by_alias=True, exclude={"schema_", *(() if sections else ("name",))})
        text = json.dumps(without_nulls({name: whole[name] for name in sections or whole}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def of(cls, part: Mage | MageClassifier | Tokenizer, name: str = "model") -> Self:
        """Return the recipe of a model, a classifier or a tokenizer composed in Python, without data and training.

        Raises:
            MageKitError: If a part's class is not registered.
        """
        tokenizer = part if isinstance(part, Tokenizer) else part.tokenizer
        stated: dict[str, Any] = {"name": name, "tokenizer": TOKENIZERS.describe(tokenizer, weights=None)}
        if isinstance(part, Mage):
            stated["model"] = describe_mage(part)
            stated["kernels"] = {"backend": part.backend, "attention": part.attention}
        elif isinstance(part, MageClassifier):
            stated["model"] = {
                "kind": "classifier",
                "classes": part.classes,
                "embedding": part.embedding.config.model_dump(mode="json"),
                "encoder": ENCODERS.describe(part.encoder),
                "head": part.kind,
                "drop_path": part.drop_path,
                "input": part.input,
            }
        components = [part] if isinstance(part, Tokenizer) else part.components()
        return cls.parse({**stated, "plugins": plugins_of(components)})

    # -- building ----------------------------------------------------------------------------------------------

    def build_tokenizer(self) -> Tokenizer:
        """Return the tokenizer with weights initialised from the seed."""
        return assemble_tokenizer(self.tokenizer, self.seed)

    def build_model(self, tokenizer: Tokenizer | None = None) -> Mage:
        """Return the masked model with weights initialised from the seed.

        Args:
            tokenizer: A trained one; None builds the recipe's.

        Returns:
            The model; its encoder is frozen where the recipe freezes a pretrained one, whose weights training fills in.

        Raises:
            RecipeError: If parts do not fit, with the paths of both; or the recipe is of something else.
        """
        if not isinstance(self.model, MageSection):
            raise RecipeError([f"$.model: {self._says()}, must be a masked model (kind mage) here"], self.name)
        make = None if tokenizer is not None else self.build_tokenizer
        model = assemble_mage(self.model, tokenizer, make, self.seed, self.name)
        self._settle(model)
        return model

    def build_classifier(self, tokenizer: Tokenizer | None = None) -> MageClassifier:
        """Return the classifier with weights initialised from the seed; see `build_model`."""
        if not isinstance(self.model, ClassifierSection):
            raise RecipeError([f"$.model: {self._says()}, must be a classifier here"], self.name)
        make = None if tokenizer is not None else self.build_tokenizer
        model = assemble_classifier(self.model, tokenizer, make, self.seed, self.name)
        self._settle(model)
        return model

    def build_dataset(self) -> Dataset:
        """Return the data set; opens its files.

        Raises:
            RecipeError: If the recipe has no data, it cannot be opened, or its classes are not the classifier's.
        """
        return self._dataset("data", self.data)

    def build_validation(self, classes: Sequence[str] = ()) -> Dataset | None:
        """Return the labelled images that a classifier's accuracy is measured on; None where none are named.

        Args:
            classes: Names of the classes that were learned, by number; none takes the images' own, by place.

        Raises:
            RecipeError: If they cannot be opened, or have a class that is none of these.
        """
        config = self.validation
        return None if config is None else self._dataset("training.validation", config, classes)

    @property
    def validation(self) -> ComponentConfig | None:
        """The images that a classifier's training names for validation, if it does."""
        return getattr(self.training, "validation", None)

    def _dataset(self, name: str, config: ComponentConfig | None, classes: Sequence[str] = ()) -> Dataset:
        if config is None:
            raise RecipeError([f"$.{name}: missing, this needs images"], self.name)
        with torch.device("meta"):
            tokenizer = self.build_tokenizer()
        with at(f"$.{name}", config):
            dataset = open_by_names(config, DatasetWires(tokenizer.image_size, tokenizer.channels), classes)
        if isinstance(self.model, ClassifierSection) and self.model.classes != len(dataset.classes):
            has = f"{len(dataset.classes)} classes" if dataset.classes else "no labels"
            raise RecipeError([f"$.model.classes and $.{name}: {self.model.classes}, the data has {has}"], self.name)
        return dataset

    def _settle(self, model: Mage | MageClassifier) -> None:
        model.set_backend(self.kernels.backend)
        model.ask_attention(self.kernels.attention)
        if self.pretrained is not None and self.pretrained.freeze:
            model.freeze_encoder()

    def _says(self) -> str:
        return "null" if self.model is None else f"of kind {self.model.kind}"


def require_recipe(value: object) -> None:
    """Make sure that a value is a recipe.

    Raises:
        MageKitError: If not; says how to get one.
    """
    if not isinstance(value, Recipe):
        rule = "must be a Recipe; Recipe.load reads a file, Recipe.parse a dict"
        raise MageKitError(f"recipe: a {type(value).__name__}, {rule}")


def plugins_of(parts: Iterable[object]) -> list[str]:
    """Return the modules outside this package that define parts, so that loading can import them again.

    Raises:
        MageKitError: If a part is defined in the running script, where loading could not find it.
    """
    parts = list(parts)
    names = {type(part).__module__ for part in parts}
    if "__main__" in names:
        mine = sorted(type(part).__name__ for part in parts if type(part).__module__ == "__main__")
        raise MageKitError(f"{', '.join(mine)}: defined in the running script, loading could not find it; use a module")
    return sorted(name for name in names if name.split(".")[0] != "mage_kit")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, with every component registered now."""
    load_entry_points()
    schema = Recipe.model_json_schema(by_alias=True)
    return {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mage_kit recipe"}
