"""The house counted: rooms, imports between them, circles, sizes. `python -m benchmarks.house [--root PATH]`.

A room is a folder or a loose module one level under mage_kit. Its floor is one above the highest room that it imports;
within a circle of rooms, which have no floors, an import counts as upward where the room imported stands later in the
order of names.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from pathlib import Path

PACKAGE = "mage_kit"


def read_imports(root: Path) -> dict[str, dict[str, int]]:
    """Return, by room, how many modules of it import which other rooms.

    Args:
        root: Of the repository.
    """
    imports: dict[str, dict[str, int]] = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        room = path.relative_to(root / PACKAGE).parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        own = imports.setdefault(room, {})
        for used in sorted(_rooms_of(path) - {room}):
            own[used] = own.get(used, 0) + 1
    return {room: {used: n for used, n in own.items() if used in imports} for room, own in imports.items()}


def _rooms_of(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        rooms |= {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return rooms


def circles_of(imports: dict[str, dict[str, int]]) -> list[set[str]]:
    """Return the groups of rooms that reach one another."""
    reach = {room: set(used) for room, used in imports.items()}
    for middle in reach:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    groups = {frozenset(b for b in reach if b in reach[a] and a in reach[b]) for a in reach if a in reach[a]}
    return [set(group) for group in sorted(groups, key=sorted)]


def floors_of(imports: dict[str, dict[str, int]], circles: list[set[str]]) -> dict[str, int]:
    """Return each room's floor, from 1; a circle is one floor."""
    circle = {room: frozenset(group) for group in circles for room in group}
    floors: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in floors:
            group = circle.get(room, frozenset([room]))
            below = {used for member in group for used in imports[member]} - group
            height = 1 + max((floor(used) for used in below), default=0)
            floors.update(dict.fromkeys(group, height))
        return floors[room]

    for room in imports:
        floor(room)
    return floors


def sizes(root: Path) -> dict[str, float]:
    """Return medians and maxima of files and functions of mage_kit and kernels, in lines."""
    files, functions = [], []
    for folder in (PACKAGE, "kernels"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            files.append(len(text.splitlines()))
            functions += [
                (node.end_lineno or node.lineno) - node.lineno + 1
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
    return {
        "median file": statistics.median(files), "largest file": max(files),
        "median function": statistics.median(functions), "largest function": max(functions),
    }  # fmt: skip


def count(root: Path) -> dict[str, float]:
    """Return all figures of a checkout."""
    imports = read_imports(root)
    circles = circles_of(imports)
    inside = [(room, used) for group in circles for room in group for used in imports[room] if used in group]
    return {
        "rooms": len(imports), "loose modules": sum(path.suffix == ".py" and path.stem[:2] != "__"
                                                    for path in (root / PACKAGE).iterdir()),
        "floors": max(floors_of(imports, circles).values()),
        "imports": sum(map(len, imports.values())),
        "upward imports": sum(used > room for room, used in inside),
        "circles": len(circles), **sizes(root),
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="Checkout to count.")
    for name, value in count(parser.parse_args().root).items():
        print(f"{name:18} {value:g}")


if __name__ == "__main__":
    main()
