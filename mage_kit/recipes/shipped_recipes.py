"""Recipes that ship with the package, found by name wherever a recipe's file may be named."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from mage_kit.base.errors import MageKitError, RecipeError

_HERE = Path(__file__).resolve().parent


def shipped_folder() -> Path:
    """Return where recipes lie: in the package that is installed, or beside the sources.

    Raises:
        MageKitError: If they are missing.
    """
    for folder in (_HERE / "shipped", _HERE.parents[1] / "recipes"):
        if (folder / "recipe.schema.json").is_file():
            return folder
    raise MageKitError("recipes: missing from this installation")


def shipped(name: str) -> Path:
    """Return a file or folder that ships, as "digits_demo.json" or "reference_digits".

    Raises:
        MageKitError: If it is missing.
    """
    if not (shipped_folder() / name).exists():
        raise MageKitError(f"recipe: {name}, is missing from this installation")
    return shipped_folder() / name


def recipe_names() -> list[str]:
    """Return the names of the recipes that ship, sorted: those of their files without `.json`."""
    return sorted(file.stem for file in shipped_folder().glob("*.json") if not file.name.endswith(".schema.json"))


def recipe_place(path: str | os.PathLike[str]) -> Path:
    """Return a recipe's file: the one that is named, or the one of that name that ships.

    Args:
        path: A file; or a bare name, as "vqgan_photos". A file of that name goes before.

    Raises:
        RecipeError: If it is a bare name and there is neither; says which name is near.
    """
    place = Path(path)
    if place.is_file() or place.suffix or place.name != os.fspath(path) or not place.name:
        return place
    names = recipe_names()
    if place.name in names:
        return shipped(f"{place.name}.json")
    if place.exists():
        return place
    near = difflib.get_close_matches(place.name, names, n=1)
    hint = f"is '{near[0]}' meant? Those that ship: " if near else "those that ship: "
    raise RecipeError([f"no such file, and no recipe of that name ships; {hint}{', '.join(names)}"], str(place))
