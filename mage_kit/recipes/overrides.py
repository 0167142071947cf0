"""`--set path=value`: one change to a recipe's JSON before it is validated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.json_text import json_or_text

_PATH = re.compile(r"(\$\.)?\$?\w+(\[[0-9]+\]|\.\w+(/\w+)?)*")


def check_overrides(overrides: Sequence[str]) -> None:
    """Make sure that no place is changed twice: the second would count, and nobody learn of the first.

    Raises:
        MageKitError: If one is.
    """
    paths = [override.partition("=")[0].removeprefix("$.") for override in overrides]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise MageKitError(f"--set {path}: given twice ({', '.join(o for o in overrides if path in o)})")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Change JSON data in place by `a.b=VALUE` or `losses[0].weight=VALUE`.

    Raises:
        MageKitError: If the text has no '=', or a place on the way does not exist.
    """
    path, sign, text = override.partition("=")
    if not sign or not path:
        raise MageKitError(f"--set {override}: must have the form path=value, as in training.epochs=10")
    try:
        value = json_or_text(text)
    except ValueError as error:
        raise MageKitError(f"--set {override[:200]}: {error}") from None
    if not _PATH.fullmatch(path):
        raise MageKitError(f"--set {override}: '{path}' is no path; it has the form a.b or a[0].b")
    parts = _parts(path)
    place: Any = data
    for part in parts[:-1]:
        if isinstance(place, dict) and place.get(str(part)) is None:
            place[str(part)] = {}
        place = _step(place, part, override)
    last = parts[-1]
    if isinstance(place, dict):
        old = place.get(str(last))
        named = isinstance(value, str) and isinstance(old, dict) and "kind" in old
        place[str(last)] = {"kind": value} if named else value
    else:
        if not isinstance(place, list):
            raise MageKitError(f"--set {override}: no place '{last}' in the recipe")
        _step(place, last, override)
        place[int(last)] = value


def states(data: Any, path: str) -> bool:
    """Return whether JSON data state a place, `a.b` or `losses[0].weight`; a null section has no places in it."""
    for part in _parts(path):
        if isinstance(data, list):
            if not isinstance(part, int) or part >= len(data):
                return False
            data = data[part]
        elif isinstance(data, dict) and str(part) in data:
            data = data[str(part)]
        else:
            return False
    return True


def _parts(path: str) -> list[str | int]:
    words = path.removeprefix("$.").replace("[", ".").replace("]", "").split(".")
    return [int(word) if word.isdigit() else word for word in words]


def _step(place: Any, part: str | int, override: str) -> Any:
    try:
        return place[str(part)] if isinstance(place, dict) else place[part]
    except (KeyError, IndexError, TypeError):
        raise MageKitError(f"--set {override}: no place '{part}' in the recipe") from None
