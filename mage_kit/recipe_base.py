"""What all recipes share: a name, plug-ins, a seed, a tokenizer; read from JSON with every problem at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, ValidationError

from mage_kit.draws import derive
from mage_kit.errors import MageKitError, RecipeError
from mage_kit.fields import NonNegative
from mage_kit.overrides import apply_override
from mage_kit.places import at
from mage_kit.plugins import load_entry_points, load_plugins, stored_folders
from mage_kit.problems import problems
from mage_kit.registry import ComponentConfig, NoWires, Strict
from mage_kit.tokenizers import TOKENIZERS, Tokenizer


class RecipeBase(Strict):
    """A recipe's common part, and its way from and to JSON."""

    schema_: str | None = Field(None, alias="$schema", description="Where editors find the schema.")
    name: str = Field(pattern=r"^\w[\w .-]*$", description="Name of the run, and of its folder in runs/.")
    plugins: tuple[str, ...] = Field((), description="Modules to import first; they may register components.")
    seed: NonNegative = Field(0, description="Every random draw of the run follows from it.")
    tokenizer: Annotated[ComponentConfig, TOKENIZERS.slot()]

    @classmethod
    def load(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """Read a recipe file, change what `overrides` name, validate.

        Args:
            path: JSON file.
            overrides: `a.b=VALUE` each; VALUE is JSON, else a string; a component's kind alone names it with defaults.

        Raises:
            RecipeError: With every problem of the recipe.
        """
        file = Path(path)
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RecipeError(["no such file"], str(file)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError([f"cannot be read ({error})"], str(file)) from None
        except (RecursionError, ValueError) as error:
            if not isinstance(error, json.JSONDecodeError):
                raise RecipeError([f"not readable as JSON ({error})"], str(file)) from None
            raise RecipeError(
                [f"line {error.lineno}, column {error.colno}: not JSON ({error.msg})"], str(file)
            ) from None
        return cls.parse(data, overrides, source=str(file), folder=file.resolve().parent)

    @classmethod
    def parse(
        cls, data: Any, overrides: Sequence[str] = (), source: str = "recipe", folder: Path | None = None
    ) -> Self:
        """Validate JSON data as a recipe; see `load`."""
        if not isinstance(data, dict):
            raise RecipeError(["$: must be an object"], source)
        data = json.loads(json.dumps(data))
        for override in overrides:
            apply_override(data, override)
        broken, found = load_entry_points(), []
        names = data.get("plugins", [])
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found = load_plugins(names, *([] if folder is None else [folder, *stored_folders(folder)]))
        try:
            recipe = cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            # A broken package that is installed matters only where something is missing.
            raise RecipeError(found + problems(error, cls, data) + broken, source) from None
        if found:
            raise RecipeError(found, source)
        return recipe

    def to_json(self) -> str:
        """Return the recipe as JSON text, every number stated."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude={"schema_"}), indent=2) + "\n"

    def extended(self, **sections: Any) -> Self:
        """Return this recipe with whole sections replaced, as `data={"kind": "image_folder", "path": "photos"}`.

        Raises:
            RecipeError: With every problem of the result.
        """
        return self.parse({**self.model_dump(mode="json", by_alias=True), **sections}, source=self.name)

    def build_tokenizer(self) -> Tokenizer:
        """Return the tokenizer with weights initialised from the seed."""
        with at("$.tokenizer", self.tokenizer), seeded(self.seed, "tokenizer"):
            return TOKENIZERS.build(self.tokenizer, NoWires())

    def fingerprint(self, *sections: str) -> str:
        """Return a SHA-256 over some sections, to tell whether a stored result still belongs to this recipe."""
        whole = self.model_dump(mode="json", by_alias=True)
        text = json.dumps({name: whole[name] for name in sections}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def schema_of(kind: type[RecipeBase], title: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind of recipe, with every component registered now."""
    load_entry_points()
    schema = kind.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = title
    return schema


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


@contextlib.contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Initialise weights from (seed, purpose), leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "init-" + purpose))
        yield
