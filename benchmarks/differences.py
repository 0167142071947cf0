"""What changed between two results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SMALL = 0.05  # changes of less are the machine's noise
_LABELS = ("operation", "size", "form")  # what names a line of a table


def differences(before: Any, after: Any) -> list[str]:
    """Return a line for each number that both results have and that differs by over 5%, the largest change first.

    Then one for each part of which only one has figures: what failed or was left out must not read as no change.

    Args:
        before: An earlier result, as read from JSON.
        after: A later one.
    """
    old, found = dict(numbers(before)), []
    for name, value in numbers(after):
        if name in old and old[name] > 0 and value > 0:
            ratio = value / old[name]
            if abs(ratio - 1) > _SMALL:
                found.append((max(ratio, 1 / ratio), f"{name}: {old[name]:.4g} -> {value:.4g} ({ratio:.2f}x)"))
    lines = [line for _, line in sorted(found, reverse=True)] or ["nothing by over 5%"]
    then, now = _measured(before), _measured(after)
    lines += [f"{part}: measured before, not now" for part in sorted(then - now)]
    return lines + [f"{part}: measured now, not before" for part in sorted(now - then)]


def _measured(result: Any) -> set[str]:
    """Names of the parts that have figures."""
    parts = result.get("parts") if isinstance(result, dict) else None
    return {name for name, part in parts.items() if isinstance(part, dict) and "result" in part} if parts else set()


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a result with the way to it; lines of tables go by what they are about."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            labels = [str(part[label]) for label in _LABELS if label in part] if isinstance(part, dict) else []
            yield from numbers(part, f"{name}[{' '.join(labels) or place}]")
