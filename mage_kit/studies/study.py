"""A study: a table of the paper as settings that run, with its numbers, and what it is held to say.

A study is a JSON file of this room. Its rows, contrasts and seeds stand before anything is trained; a verdict follows
from them and from the figures, by no hand.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from mage_kit.base.errors import MageKitError
from mage_kit.base.signature import Strict
from mage_kit.studies.measurement import Measurement
from mage_kit.studies.study_parts import Contrast, Scale, ScaleName, StudyMeasure, StudyRow


class Study(Strict):
    """A table of the paper."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="As on the command line.")
    title: str = Field(description="What is varied.")
    table: str = Field(description="Of the paper, as 'Table 7 of the supplement'.")
    conditions: str = Field(description="Of the paper's numbers: data, model, epochs.")
    finding: str = Field(description="What the paper concludes, in a sentence.")
    scales: dict[ScaleName, Scale]
    measures: tuple[StudyMeasure, ...]
    rows: tuple[StudyRow, ...] = Field(min_length=2)
    contrasts: tuple[Contrast, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field((0, 1, 2), description="Trainings of each row.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Rows, columns and scales that are spoken of must be there."""
        rows, columns = [row.name for row in self.rows], [measure.name for measure in self.measures]
        scales = list(self.scales)
        for names, what in ((rows, "rows"), (columns, "measures")):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: two have one name")
        mentions: list[tuple[str, list[str], str]] = [
            *((name, rows, "row") for contrast in self.contrasts for name in (contrast.better, contrast.worse)),
            *((contrast.measure, columns, "measure") for contrast in self.contrasts),
            *((name, columns, "measure") for row in self.rows for name in (*row.paper, *row.options)),
            *((name, scales, "scale") for row in self.rows for name in (*row.at, *row.recipes, *row.left_out)),
        ]
        for name, known, what in mentions:
            if name not in known:
                raise ValueError(f"{what} '{name}': must be one of {', '.join(known)}")
        for number, row in enumerate(self.rows):
            above = [each.name for each in self.rows[:number] if not each.needs]
            if row.starts_from and row.starts_from not in above:
                raise ValueError(f"starts_from '{row.starts_from}' of '{row.name}': must be a row above it that runs")
        return self

    def measurements(
        self,
        scale: str,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        skip: Collection[str] = (),
        row: StudyRow | None = None,
    ) -> list[Measurement]:
        """Return the columns at a scale.

        Args:
            scale: Of the study.
            options: More options by measure or by column, as {"fid": {"reference": "FILE"}}; a column's own count.
            skip: Columns to leave out.
            row: With its own options; None for those of most rows.

        Raises:
            MageKitError: If there is neither such a measure nor such a column, or no column is left.
        """
        here = [measure for measure in self.measures if scale in measure.at]
        known = {name for measure in here for name in (measure.name, measure.at[scale].measure)}
        if unknown := sorted(set(options or {}) - known):
            raise MageKitError(f"option: '{unknown[0]}', must be one of {', '.join(sorted(known))}")
        names = [measure.name for measure in here]
        if unknown := [name for name in skip if name not in names] or (names if set(names) <= set(skip) else []):
            raise MageKitError(f"skip: '{unknown[0]}', must be one of {', '.join(names)}, and not all of them")
        columns = []
        for measure in (each for each in here if each.name not in skip):
            source, more = measure.at[scale], options or {}
            of_row = {} if row is None else row.options.get(measure.name, {})
            of_user = {**more.get(source.measure, {}), **more.get(measure.name, {})}
            all_options = {**source.options, **of_row, **of_user}
            columns.append(
                Measurement(
                    measure.name, source.measure, source.row, source.figure, all_options, measure.better, source.seeded
                )
            )
        return columns

    def able_rows(self, scale: str) -> list[StudyRow]:
        """Return the rows that are run at a scale."""
        return [row for row in self.rows if not row.reason(scale)]

    def row(self, name: str) -> StudyRow:
        """Return the row of a name."""
        return next(row for row in self.rows if row.name == name)

    def changes(self, row: StudyRow, scale: str) -> tuple[str, list[str]]:
        """Return the recipe of a row at a scale, and its changes."""
        place = self.scales[scale]
        return row.recipes.get(scale, place.recipe), [*place.set, *row.set, *row.at.get(scale, ())]
