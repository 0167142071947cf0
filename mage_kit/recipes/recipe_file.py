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
        check_file(file)
        with file.open("rb") as stream:  # of a pipe or a device, too, no more than a recipe may have
            content = stream.read(4 * LARGEST + 1)  # UTF-8 has at most four bytes a character
        if len(content) > 4 * LARGEST:
            raise ValueError(f"over {4 * LARGEST:,} bytes, must be a recipe")
        return parse_json(content.decode())
    except FileNotFoundError:
        raise RecipeError(["no such file"], str(file)) from None
    except OSError as error:
        raise RecipeError([f"cannot be read ({(error.strerror or 'no reason given').lower()})"], str(file)) from None
    except UnicodeDecodeError as error:
        raise RecipeError([f"must be JSON in UTF-8: byte {error.start} is none"], str(file)) from None
    except DamagedFileError as error:
        raise RecipeError([str(error).removeprefix(f"{file.resolve()}: ")], str(file)) from None
    except ValueError as error:
        raise RecipeError([str(error)], str(file)) from None
