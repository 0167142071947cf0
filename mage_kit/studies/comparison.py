"""Trainings side by side: rows by seeds, what each figure is, and how sure its differences are.

The object that `mk.compare` and a study give back; a notebook shows it as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json, write_json
from mage_kit.studies.statistics import Interval, difference_interval, interval

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class FigureName:
    """A column.

    Args:
        name: As "linear probe".
        better: Which way is better; None where neither is.
        protocol: How it is measured, in a line.
    """

    name: str
    better: Better | None = None
    protocol: str = ""


@dataclass(frozen=True)
class ComparisonRow:
    """A setting, trained once a seed.

    Args:
        name: What it is called.
        settings: What it changes in the recipe, by path.
        values: Each figure's value by seed; a seed that failed, or that gives no such figure, is absent.
        problems: Why seeds failed, by seed; of a row that cannot be built under -1.
    """

    name: str
    settings: Mapping[str, str]
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Rows of settings against columns of figures, over seeds.

    Args:
        title: What is compared.
        figures: The columns.
        rows: The settings; differences are to the first one.
        seeds: That were asked for.
    """

    title: str
    figures: tuple[FigureName, ...]
    rows: tuple[ComparisonRow, ...]
    seeds: tuple[int, ...]

    def __getitem__(self, name: str) -> ComparisonRow:
        """Return a row by its name.

        Raises:
            MageKitError: If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise MageKitError(f"row: '{name}', must be one of {', '.join(row.name for row in self.rows)}")

    def mean(self, row: ComparisonRow, figure: str) -> Interval | None:
        """Return a figure of a row over its seeds; None where no seed has it."""
        values = list(row.values.get(figure, {}).values())
        return interval(values) if values else None

    def difference(self, row: ComparisonRow, figure: str, base: ComparisonRow | None = None) -> Interval | None:
        """Return by how much a row's figure is above another's, over the seeds that both have; None where none has.

        Args:
            row: The row.
            figure: The column.
            base: The other; None for the first row.
        """
        base = base or self.rows[0]
        mine, theirs = row.values.get(figure, {}), base.values.get(figure, {})
        both = sorted(mine.keys() & theirs.keys())
        if not both:
            return None
        return difference_interval([theirs[seed] for seed in both], [mine[seed] for seed in both])

    # -- files -------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON: values by seed, and for people their mean and interval."""
        return {
            "title": self.title,
            "seeds": list(self.seeds),
            "figures": [{"name": f.name, "better": f.better, "protocol": f.protocol} for f in self.figures],
            "rows": [self._row_as_dict(row) for row in self.rows],
        }

    def _row_as_dict(self, row: ComparisonRow) -> dict[str, Any]:
        means = {f.name: mean for f in self.figures if (mean := self.mean(row, f.name))}
        return {
            "name": row.name,
            "settings": dict(row.settings),
            "values": {name: {str(seed): value for seed, value in by.items()} for name, by in row.values.items()},
            "means": {name: {"mean": each.mean, "std": each.std} for name, each in means.items()},
            "problems": {str(seed): words for seed, words in row.problems.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return what `as_dict` gave.

        Raises:
            MageKitError: If it is something else.
        """
        try:
            figures = tuple(FigureName(each["name"], each["better"], each["protocol"]) for each in data["figures"])
            rows = tuple(_row(each) for each in data["rows"])
            return cls(str(data["title"]), figures, rows, tuple(int(seed) for seed in data["seeds"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MageKitError(f"comparison: holds no rows by seeds ({type(error).__name__}: {error})") from None

    def write(self, file: Path) -> None:
        """Write it as JSON, at once."""
        write_json(file, self.as_dict())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            MageKitError: If the file is something else.
        """
        return cls.from_dict(read_json(file))

    # -- what people see ---------------------------------------------------------------------------------------

    def to_markdown(self) -> str:
        """Return a table in Markdown."""
        from mage_kit.studies.comparison_text import markdown

        return markdown(self)

    def to_csv(self) -> str:
        """Return one line a row, seed and figure."""
        from mage_kit.studies.comparison_text import csv_text

        return csv_text(self)

    def to_latex(self) -> str:
        """Return a tabular for a paper."""
        from mage_kit.studies.comparison_text import latex

        return latex(self)

    def __str__(self) -> str:
        """Return the table in Markdown."""
        return self.to_markdown()

    def _repr_html_(self) -> str:
        from mage_kit.studies.comparison_text import html

        return html(self)


def _row(data: Mapping[str, Any]) -> ComparisonRow:
    values = {name: {int(seed): float(v) for seed, v in by.items()} for name, by in data["values"].items()}
    problems = {int(seed): str(words) for seed, words in data["problems"].items()}
    return ComparisonRow(str(data["name"]), dict(data["settings"]), values, problems)
