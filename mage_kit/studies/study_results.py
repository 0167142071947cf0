"""What a study gave, as a file: its figures, a verdict on each contrast, and the settings that they are of."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json, write_json
from mage_kit.studies.comparison import Comparison
from mage_kit.studies.study import Study
from mage_kit.studies.study_trials import recipe_of
from mage_kit.studies.study_verdicts import StudyVerdict, verdicts


@dataclass(frozen=True)
class StudyResult:
    """What a study gave.

    Args:
        study: The study.
        scale: Where it ran.
        comparison: Its figures.
        overrides: Changes that the user made to its rows.
        date: When the last of the figures came, YYYY-MM-DD; "" before it is written.
        outdated: Rows whose settings have changed since.
    """

    study: Study
    scale: str
    comparison: Comparison
    overrides: tuple[str, ...] = ()
    date: str = ""
    outdated: tuple[str, ...] = ()

    @property
    def verdicts(self) -> list[StudyVerdict]:
        """One on each contrast."""
        return verdicts(self.study, self.comparison)

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        names = [row.name for row in self.comparison.rows]
        return {
            "study": self.study.name,
            "scale": self.scale,
            "date": self.date or time.strftime("%Y-%m-%d"),
            "overrides": list(self.overrides),
            "settings": _settings(self.study, self.scale, names, self.overrides),
            "comparison": self.comparison.as_dict(),
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
        }

    def write(self, file: Path) -> bool:
        """Write it as JSON, at once, and return True; leave a result of more seeds, of the same settings, in place.

        Figures that are there already keep their date.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(json.dumps(self.as_dict()))
        before = read_json(file) if file.is_file() else None
        if isinstance(before, dict) and before.get("settings") == content["settings"]:
            had, has = (each["comparison"]["seeds"] for each in (before, content))
            if set(had) > set(has):
                return False
            if before["comparison"] == content["comparison"]:
                content["date"] = before["date"]
        write_json(file, content)
        return True


def result_file(study: Study, scale: str, out: Path) -> Path:
    """Return where a study's result lies."""
    return out / f"{study.name}-{scale}.json"


def read_study_result(study: Study, scale: str, out: Path) -> StudyResult | None:
    """Return what a study gave before; None where it was not run.

    Raises:
        MageKitError: If the file is something else.
    """
    file = result_file(study, scale, out)
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or content.get("study") != study.name or "comparison" not in content:
        raise MageKitError(f"{file}: holds no result of the study '{study.name}'")
    overrides = tuple(map(str, content.get("overrides", ())))
    comparison, before = Comparison.from_dict(content["comparison"]), dict(content.get("settings", {}))
    now = _settings(study, scale, [row.name for row in comparison.rows], overrides)
    outdated = tuple(name for name in before if now.get(name) != before[name])
    return StudyResult(study, scale, comparison, overrides, str(content.get("date", "")), outdated)


def _settings(study: Study, scale: str, rows: Sequence[str], overrides: Sequence[str]) -> dict[str, str]:
    """Fingerprints of the rows' recipes, of those that can be built."""
    marks = {}
    for row in study.rows:
        if row.name in rows:
            try:
                marks[row.name] = recipe_of(study, row.name, scale, overrides)(0).fingerprint()[:20]
            except MageKitError:
                marks[row.name] = "cannot be built"
    return marks
