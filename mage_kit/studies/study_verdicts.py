"""What a study's figures say of the paper's: its way, the other way, or no difference beyond chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mage_kit.studies.comparison import Comparison
from mage_kit.studies.statistics import Interval
from mage_kit.studies.study import Study
from mage_kit.studies.study_parts import Contrast

Way = Literal["the paper's way", "no difference", "the other way", "not run"]


@dataclass(frozen=True)
class StudyVerdict:
    """On one contrast.

    Args:
        contrast: What the paper says.
        way: What the figures say.
        difference: Of the row that the paper has ahead, over the other, by paired seeds; None where it was not run.
        paper: The same of the paper's numbers; None where there are none.
    """

    contrast: Contrast
    way: Way
    difference: Interval | None
    paper: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        mine = self.difference
        return {
            **self.contrast.model_dump(mode="json"),
            "way": self.way,
            "difference": None if mine is None else {"mean": mine.mean, "seeds": mine.count},
            "paper": self.paper,
        }


def verdicts(study: Study, comparison: Comparison) -> list[StudyVerdict]:
    """Return a verdict on each contrast of a study.

    A direction is told where the 95% interval of the paired differences leaves 0 out. Of one seed it never does, and
    differences that are all alike tell none: of so few that is chance. What images a figure is measured on is the same
    for all seeds, and is no part of the interval.
    """
    return [_verdict(study, comparison, contrast) for contrast in study.contrasts]


def _verdict(study: Study, comparison: Comparison, contrast: Contrast) -> StudyVerdict:
    paper = _paper(study, contrast)
    names = {row.name for row in comparison.rows}
    if contrast.better not in names or contrast.worse not in names:
        return StudyVerdict(contrast, "not run", None, paper)
    ahead, behind = comparison[contrast.better], comparison[contrast.worse]
    difference = comparison.difference(ahead, contrast.measure, behind)
    if difference is None:
        return StudyVerdict(contrast, "not run", None, paper)
    if not difference.excludes_zero:
        return StudyVerdict(contrast, "no difference", difference, paper)
    better = next(measure.better for measure in study.measures if measure.name == contrast.measure)
    is_ahead = (difference.mean > 0) == (better == "higher")
    return StudyVerdict(contrast, "the paper's way" if is_ahead else "the other way", difference, paper)


def _paper(study: Study, contrast: Contrast) -> float | None:
    rows = {row.name: row for row in study.rows}
    values = [rows[name].paper.get(contrast.measure) for name in (contrast.better, contrast.worse)]
    return None if values[0] is None or values[1] is None else values[0] - values[1]
