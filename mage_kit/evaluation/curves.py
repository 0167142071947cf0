"""The curves in a result: accuracy after each block, or over labelled images."""

from __future__ import annotations

import re
from typing import Any

Curves = dict[str, list[tuple[float, float, float]]]
"""Points (x, top-1, deviation) by name."""

_BLOCK = re.compile(r"(?:(.+), )?block (\d+)")


def block_curves(rows: dict[str, Any]) -> Curves:
    """Return top-1 after each block, by model; what is of no block is a level line from the first to the last."""
    made: Curves = {}
    level: dict[str, tuple[float, float]] = {}
    for name, row in rows.items():
        point = (float(row["top1"]), float(row.get("std", 0.0)))
        if found := _BLOCK.fullmatch(name):
            made.setdefault(found[1] or "features", []).append((float(found[2]), *point))
        else:
            level[name] = point
    ends = sorted({x for points in made.values() for x, _, _ in points})
    for name, point in level.items() if ends else ():
        made[name] = [(x, *point) for x in (ends[0], ends[-1])]
    return made


def shot_curves(rows: dict[str, Any]) -> Curves:
    """Return top-1 over labelled images of each class, by features."""
    return {
        name: [(float(each["shots"]), float(each["top1"]), float(each["std"])) for each in row["by_shots"].values()]
        for name, row in rows.items()
    }
