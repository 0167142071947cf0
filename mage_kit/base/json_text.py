"""JSON from strangers: read whole or refused in one sentence, before anything large or deep is made of it."""

from __future__ import annotations

import json
import re
from typing import Any

LARGEST = 1 << 20  # characters: the largest recipe of ours has six thousand
DEEPEST = 100  # brackets within brackets; Python's own limit comes soon after
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse_json(text: str) -> Any:
    """Read JSON text, strictly: no key stands twice, no number is NaN or infinite.

    Args:
        text: At most LARGEST characters, at most DEEPEST brackets deep.

    Raises:
        ValueError: If it is larger, deeper, or no such JSON; says where.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{len(text):,} characters, must be at most {LARGEST:,}")
    depth = 0
    for match in _MARKS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets within brackets")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from None


def json_or_text(text: str) -> Any:
    """Read what was written where JSON or plain words may stand: JSON where it is JSON, else the text itself.

    Raises:
        ValueError: If it begins as JSON and is none, or is too large: JSON was meant.
    """
    try:
        return parse_json(text)
    except ValueError:
        if text.lstrip()[:1] in ("{", "[", '"') or len(text) > LARGEST:
            raise
        return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: of two alike the second would count, and nobody learn of the first."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key '{key[:100]}' stands twice in one object")
        values[key] = value
    return values


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant}, must be a finite number")


def without_nulls(value: Any) -> Any:
    """Return JSON data without the keys that hold null, however deep."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
