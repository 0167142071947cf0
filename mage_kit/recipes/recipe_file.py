"""A recipe's file as JSON values: of bounded size, as its folder's manifest lists it, every error a recipe's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mage_kit.base.errors import RecipeError
from mage_kit.base.json_text import LARGEST, parse_json
from mage_kit.base.manifest import DamagedFileError, check_file


def read_recipe_file(file: Path) -> Any:
    """Return what a recipe's file holds.

    Args:
        file: JSON; beside weights, as it was written.

    Raises:
        RecipeError: If it is missing, damaged, too large to be a recipe, or no JSON.
    """
    try:
        if file.is_file() and file.stat().st_size > 4 * LARGEST:  # UTF-8 has at most four bytes a character
            raise ValueError(f"{file.stat().st_size:,} bytes, must be a recipe")
        check_file(file)
        return parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(["no such file"], str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"cannot be read ({error})"], str(file)) from None
    except DamagedFileError as error:
        raise RecipeError([str(error).removeprefix(f"{file.resolve()}: ")], str(file)) from None
    except ValueError as error:
        raise RecipeError([str(error)], str(file)) from None
