"""Files of installed packages, which are not imported, and the folder where what is made once is kept."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from mage_kit.base.errors import MageKitError, MissingExtraError


def package_file(package: str, file: str, what: str, extra: str) -> Path:
    """Return a file of an installed package.

    Args:
        package: Its import name.
        file: Below its folder.
        what: Needs it, for errors.
        extra: That brings the package.

    Raises:
        MissingExtraError: If it is not installed.
        MageKitError: If it has no such file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(what, extra)
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise MageKitError(f"{what}: {package} has no file '{file}'; install the version of the extra '{extra}'")
    return path


def cache_folder(name: str) -> Path:
    """Return the user's cache folder for a purpose: $XDG_CACHE_HOME or ~/.cache, mage_kit/NAME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mage_kit" / name
