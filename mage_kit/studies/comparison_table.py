"""What stands in a comparison's table: a mean with half of its interval, and its difference to the first row."""

from __future__ import annotations

import math

from mage_kit.studies.comparison import Comparison, ComparisonRow, FigureName
from mage_kit.studies.statistics import LEVEL, Interval

_DASH = "-"


def cells(comparison: Comparison, row: ComparisonRow, figure: FigureName) -> tuple[str, str]:
    """Return a figure of a row, and its difference to the first row, as text; a star where it is surely not 0."""
    mean = comparison.mean(row, figure.name)
    if mean is None:
        return _DASH, _DASH
    if row is comparison.rows[0]:
        return number(mean), ""
    difference = comparison.difference(row, figure.name)
    if difference is None:
        return number(mean), _DASH
    star = "*" if difference.excludes_zero else ""
    return number(mean), f"{number(difference, sign=True)}{star}"


def number(value: Interval, sign: bool = False) -> str:
    """Return a mean and half of its interval, with as many digits as the interval leaves it."""
    spread = value.half if math.isfinite(value.half) else value.std
    digits = _digits(spread if spread > 0 else abs(value.mean) / 100)
    text = f"{value.mean:+.{digits}f}" if sign else f"{value.mean:.{digits}f}"
    return text if value.count == 1 else f"{text} ± {spread:.{digits}f}"


def _digits(spread: float) -> int:
    """Decimals that show two digits of a spread."""
    return 4 if spread <= 0 else max(0, min(6, 1 - math.floor(math.log10(spread))))


def legend(comparison: Comparison) -> str:
    """Return what the table shows, in a few sentences."""
    count = len(comparison.seeds)
    over = f"Means over {count} seeds, ± half of the {LEVEL:.0%} interval" if count > 1 else "One seed, no interval"
    more = (
        f"; differences are to the first row, seed by seed, a star where the {LEVEL:.0%} interval leaves 0 out."
        if count > 1
        else "; differences are to the first row."
    )
    ways = [f"{f.name}: {f.protocol}" for f in comparison.figures if f.protocol]
    return f"{over}{more}" + "".join(f" {each.rstrip('.')}." for each in ways)


def table_of(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and body; a column of differences beside each figure where there are rows to differ."""
    differs = len(comparison.rows) > 1
    heads = ["row"]
    for figure in comparison.figures:
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[figure.better]
        heads += [f"{figure.name}{arrow}", *(["difference"] if differs else [])]
    body = []
    for row in comparison.rows:
        line = [row.name]
        for figure in comparison.figures:
            value, difference = cells(comparison, row, figure)
            line += [value, *([difference] if differs else [])]
        body.append(line)
    return heads, body


def problems(comparison: Comparison) -> list[str]:
    """Return a line for each row and seed that failed."""
    return [
        f"{row.name}{f', seed {seed}' if seed >= 0 else ''}: {words}"
        for row in comparison.rows
        for seed, words in sorted(row.problems.items())
    ]
