"""Arguments of calls, checked where recipes are not in between."""

from __future__ import annotations

import operator


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return a whole number, numpy's and torch's too, as Python's own.

    Args:
        name: For the error.
        value: What was given; True and False are no numbers here.
        least: The smallest that will do.
        most: The largest that will do; None for any.

    Raises:
        ValueError: If it is none, or outside the range.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]  # tried
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name}: {value!r}, must be a whole number of at least {least}")
    if number < least:
        raise ValueError(f"{name}: {number}, must be at least {least}")
    if most is not None and number > most:
        raise ValueError(f"{name}: {value!r}, must be at most {most:,}")
    return number
