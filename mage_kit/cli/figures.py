"""A result as a table: what each number is of, and its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mage_kit.evaluation.measures import Figure, Measure

_WIDE = 7  # figures that still stand beside one another


def show_result(console: Console, measure: type[Measure], result: Mapping[str, Any]) -> None:
    """Print a result: figures of several things as a row each, many of one thing as a line each."""
    figures = measure.figures(result)
    rows = list(dict.fromkeys(figure.of for figure in figures))
    names = list(dict.fromkeys(figure.name for figure in figures))
    cells = {(figure.of, figure.name): _number(figure) for figure in figures}
    console.print(measure.heading(result), style="bold", soft_wrap=True)
    if len(rows) == 1 or len(names) > _WIDE:
        table = Table("figure", *rows)
        for name in names:
            table.add_row(_words(name), *(cells.get((of, name), "-") for of in rows))
    else:
        table = Table("of", *(_words(name) for name in names))
        for of in rows:
            table.add_row(of, *(cells.get((of, name), "-") for name in names))
    console.print(table)
    console.print(measure.note(result), soft_wrap=True)


def number(value: float) -> str:
    """Return a figure with the digits that it has."""
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"


def _number(figure: Figure) -> str:
    return number(figure.value) + (f" ± {number(figure.std)}" if figure.std is not None else "")


def _words(name: str) -> str:
    return "Fréchet distance" if name == "frechet" else name.replace("_", " ")
