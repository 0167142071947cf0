"""What a study is made of: columns, scales, rows, and what its table is held to say."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mage_kit.base.signature import Strict
from mage_kit.studies.comparison import Better

ScaleName = Annotated[str, Field(pattern="^(digits|pictograms|imagenet)$")]


class ColumnSource(Strict):
    """Which figure a column shows at a scale."""

    measure: str = Field(description="Kind, as 'probe-fast'.")
    row: str = Field(description="Of the measure's result, as 'mean'.")
    figure: str = Field(description="In that row, as 'top1'.")
    options: dict[str, Any] = Field({}, description="Of the measure.")
    seeded: bool = Field(True, description="Whether the measure takes the run's seed.")


class StudyMeasure(Strict):
    """A column: what the paper measures, and by what it is measured at a scale."""

    name: str = Field(description="Of the column, as 'linear probe'.")
    better: Better = Field(description="Which way is better.")
    paper: str = Field(description="What the paper's numbers are, as 'FID, 50,000 images'.")
    at: dict[ScaleName, ColumnSource] = Field(description="By scale; one that is absent has no such column.")


class Scale(Strict):
    """Where a study runs."""

    recipe: str = Field(description="That ships, or a file.")
    set: tuple[str, ...] = Field((), description="Changes of all rows.")


class StudyRow(Strict):
    """A setting."""

    name: str = Field(description="As the paper calls it.")
    set: tuple[str, ...] = Field((), description="Changes at every scale.")
    at: dict[str, tuple[str, ...]] = Field({}, description="More changes at a scale.")
    recipes: dict[str, str] = Field({}, description="Another recipe than the scale's, by scale.")
    paper: dict[str, float | None] = Field({}, description="The paper's numbers by column; null: none stands there.")
    options: dict[str, dict[str, Any]] = Field({}, description="More options of measures for this row, by column.")
    left_out: dict[str, str] = Field({}, description="Why it is not run at a scale, by scale.")
    starts_from: str = Field("", description="A row above, from whose run of the same seed this one starts.")
    needs: str = Field("", description="What it takes that does not come with this program: it is not run.")

    def reason(self, scale: str) -> str:
        """Return why the row is not run at a scale; "" where it is."""
        return f"it needs {self.needs}" if self.needs else self.left_out.get(scale, "")


class Contrast(Strict):
    """What a table is held to say: of two rows one is better in a column."""

    better: str = Field(description="The row that the paper has ahead.")
    worse: str = Field(description="The other.")
    measure: str = Field(description="Column.")
    decides: bool = Field(False, description="Whether this is what the study is held to by.")
    note: str = Field("", description="Where the paper gives no numbers: what it says.")
