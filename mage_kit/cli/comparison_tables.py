"""A comparison in the terminal."""

from __future__ import annotations

from rich.table import Column, Table

from mage_kit.cli.app import console
from mage_kit.studies.comparison import Comparison
from mage_kit.studies.comparison_table import legend, problems, table_of


def print_comparison(comparison: Comparison) -> None:
    """Print means and differences, what they are, and what failed."""
    heads, body = table_of(comparison)
    table = Table(Column(heads[0], no_wrap=True), *heads[1:], title=comparison.title)
    for cells in body:
        table.add_row(*cells)
    console.print(table)
    console.print(legend(comparison), soft_wrap=True)
    for problem in problems(comparison):
        console.print(f"failed: {problem}", soft_wrap=True)
