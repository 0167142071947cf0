"""Where results go: a new folder, or one that the user said may be replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

from mage_kit.errors import MageKitError
from mage_kit.storage import RECIPE_FILE


def clear_run(folder: Path, overwrite: bool) -> None:
    """Make sure that a run can start in a folder.

    Only what this program wrote is ever removed: a folder with a recipe.json in it.

    Raises:
        MageKitError: If the folder holds something and `overwrite` was not given, or it is no run folder.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise MageKitError(f"out: '{folder}', is not empty; choose another folder or give --overwrite")
    if not (folder / RECIPE_FILE).is_file():
        raise MageKitError(
            f"out: '{folder}', is not empty and holds no {RECIPE_FILE}; only run folders are overwritten"
        )
    shutil.rmtree(folder)
