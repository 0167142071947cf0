"""A figure of a run: which measure gives it, and its result, which is made once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.evaluation.evaluate import check_options, evaluate, prepared
from mage_kit.evaluation.measures import MEASURES
from mage_kit.evaluation.stored_results import figures_of, read_result
from mage_kit.store.run_folders import EVAL
from mage_kit.studies.comparison import Better

NO_RUN = Path(os.devnull) / "run"  # a place where none can be: measures are asked before there is one


@dataclass(frozen=True)
class Measurement:
    """A figure, and the measure that gives it.

    Args:
        name: Of the figure, as it is shown.
        measure: Kind, as "probe-fast".
        row: Of the measure's result, as "mean".
        figure: In that row, as "top1".
        options: Of the measure.
        better: Which way is better; None where neither is.
        seeded: Whether the measure takes the run's seed; one over folds of the run's images has it anyway.
    """

    name: str
    measure: str
    row: str
    figure: str
    options: Mapping[str, Any] = field(default_factory=dict)
    better: Better | None = None
    seeded: bool = True

    def key(self) -> str:
        """Return what tells one figure from another, whatever it is called."""
        options = json.dumps(dict(self.options), sort_keys=True, default=str)
        revision = MEASURES.get(self.measure).cls.revision
        return f"{self.measure} {revision} {self.row}: {self.figure} {options}"

    def with_seed(self, seed: int) -> dict[str, Any]:
        """Return the measure's options, the run's seed among them where it takes one."""
        return {**self.options, **({"seed": seed} if self.seeded else {})}


def check_measurement(measurement: Measurement, flag: str = "") -> None:
    """Raise MageKitError for a measure, or options of it, that no run can be measured by.

    Args:
        measurement: Which.
        flag: How options are given, for the message.
    """
    try:
        check_options(*prepared(NO_RUN, measurement.measure, measurement.with_seed(0)))
    except MageKitError as error:
        raise MageKitError(f"'{measurement.name}' by measure '{measurement.measure}': {error}{flag}") from None


def measure_run(measurement: Measurement, run: Path, seed: int, reporter: Reporter) -> tuple[float, str]:
    """Return a figure of a run and its protocol; a measure's result that is there is read, one that was begun goes on.

    Args:
        measurement: Which.
        run: Its folder, content and name are one.
        seed: Of what a measure draws.
        reporter: Where progress goes.

    Raises:
        MageKitError: If it cannot be measured, or the result has no such figure.
    """
    options, cls = measurement.with_seed(seed), MEASURES.get(measurement.measure).cls
    # Marked, so that what a user measured of the run otherwise is not taken for it.
    text = json.dumps([cls.revision, options], sort_keys=True, default=str)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    file = run / EVAL / f"{cls.file or measurement.measure}-{mark}.json"
    if not file.is_file():
        again = {"resume": True} if "resume" in cls.takes else {}
        evaluate(run, measurement.measure, out=file, reporter=reporter, **options, **again)
    measure, result = read_result(file)
    for figure in figures_of(measure, result, str(file)):
        if (figure.of, figure.name) == (measurement.row, measurement.figure):
            return figure.value, str(result["protocol"])
    raise MageKitError(f"{file}: has no figure '{measurement.figure}' of '{measurement.row}'")
