"""A result as a table: what each number is of, and its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mage_kit.evaluation.measures import Figure, Measure

_WIDE = 7  # figures that still stand beside one another


def show_result(console: Console, measure: type[Measure], result: Mapping[str, Any]) -> None:
    """Print a result: figures of several things as a row each, many of one thing as a line each."""
    from mage_kit.evaluation.measures.base import number_text
    from mage_kit.evaluation.stored_results import ask

    figures = measure.figures(result)
    console.print(ask(measure, "heading", result), style="bold", soft_wrap=True)
    for part in _alike(figures):
        console.print(_table(part, {(each.of, each.name): number_text(each.value, each.std) for each in part}))
    console.print(ask(measure, "note", result), soft_wrap=True)


def _alike(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Figures of things that share names of figures, in one part each: others have no column in common."""
    parts: list[list[Figure]] = []
    for of in dict.fromkeys(figure.of for figure in figures):
        mine = [figure for figure in figures if figure.of == of]
        names = {figure.name for figure in mine}
        part = next((part for part in parts if names & {figure.name for figure in part}), None)
        if part is None:
            parts.append(mine)
        else:
            part += mine
    return parts


def _table(figures: Sequence[Figure], cells: Mapping[tuple[str, str], str]) -> Table:
    rows = list(dict.fromkeys(figure.of for figure in figures))
    names = list(dict.fromkeys(figure.name for figure in figures))
    if len(rows) == 1 or len(names) > _WIDE:
        table = Table("figure", *rows)
        for name in names:
            table.add_row(_words(name), *(cells.get((of, name), "-") for of in rows))
    else:
        table = Table("of", *(_words(name) for name in names))
        for of in rows:
            table.add_row(of, *(cells.get((of, name), "-") for name in names))
    return table


def _words(name: str) -> str:
    return "Fréchet distance" if name == "frechet" else name.replace("_", " ")
