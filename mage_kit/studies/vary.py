"""What varies in a sweep, as it is written on the command line, and what a value is called in a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.json_text import json_or_text
from mage_kit.recipes.overrides import check_overrides


def parse_vary(options: Sequence[str]) -> dict[str, list[Any]]:
    """Read `path=A,B,C` or `path=[JSON, ...]`, one each axis.

    Raises:
        MageKitError: If one names no path or fewer than two values, or two name one path.
    """
    axes: dict[str, list[Any]] = {}
    for option in options:
        path, sign, text = option.partition("=")
        try:
            whole = json_or_text(text)
        except ValueError as error:
            raise MageKitError(f"--vary {option[:200]}: {error}") from None
        values = whole if isinstance(whole, list) else [json_or_text(part.strip()) for part in text.split(",")]
        if not sign or not path or len(values) < 2:
            rule = "must have the form path=A,B or path=[JSON, JSON] with at least two values"
            raise MageKitError(f"--vary {option}: {rule}")
        axes[path] = axes.get(path, []) + list(values)
        check_overrides([each for each in options if each.partition("=")[0] == path])
    return axes


def value_text(value: Any) -> str:
    """Return a value as a row is called by: a component without other settings by its kind."""
    if isinstance(value, dict) and set(value) == {"kind"}:
        return str(value["kind"])
    return value if isinstance(value, str) else json.dumps(value)
