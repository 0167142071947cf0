"""One training of a comparison: a run of its recipe in a folder that follows from it, and the figures of that run.

Recipes that are the same but for their name share a run, whichever comparison or study asks for it. What is there is
taken; what was killed goes on; what fails costs its own row alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mage_kit.base.progress import Reporter
from mage_kit.base.version import versions
from mage_kit.evaluation.measures import MEASURES
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import plugin_digests
from mage_kit.store.folders import MODEL_FILE
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import Measurement, measured
from mage_kit.training.check import check
from mage_kit.training.train import train

FAILURES = (ValueError, OSError, ImportError)  # what a setting, a part or the machine may do; not a bug of ours


@dataclass(frozen=True)
class Trial:
    """A training to run and measure.

    Args:
        recipe: With data and training.
        measurements: Its figures.
        start: Whose model this one starts from (`pretrained` of its recipe says what it takes); None where neither.
    """

    recipe: Recipe
    measurements: Sequence[Measurement]
    start: Trial | None = None

    def settled(self, runs: Path) -> Recipe:
        """Return the recipe under a name that follows from its contents, so that whoever asks for it shares the run.

        Args:
            runs: Folder of all runs, where the one that it starts from lies too.
        """
        if self.start is None:
            return self.recipe.extended(name=_name(self.recipe))
        first = self.start.settled(runs)
        # The name has no folder in it: figures of a run count wherever the runs lie.
        name = _name(self.recipe.changed("pretrained", weights=first.name))
        return self.recipe.changed("pretrained", weights=str(runs / first.name)).extended(name=name)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Args:
        values: Figures by name.
        protocols: How each was measured, by name.
        problem: Why it failed; "" where it did not.
    """

    values: Mapping[str, float]
    protocols: Mapping[str, str]
    problem: str = ""


def _name(recipe: Recipe) -> str:
    text = json.dumps([recipe.fingerprint(), plugin_digests(recipe)], sort_keys=True)
    return f"run-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def run_trial(trial: Trial, runs: Path, reporter: Reporter, store: FigureStore | None = None) -> TrialResult:
    """Train what is not trained, measure what is not measured; a failure is a result too.

    Args:
        trial: What to run.
        runs: Folder of all runs.
        reporter: Where progress goes.
        store: Figures of runs that need not be there any more; those of this one go there too.
    """
    values: dict[str, float] = {}
    protocols: dict[str, str] = {}
    start = time.monotonic()
    try:
        recipe = trial.settled(runs)
        if store is not None and (figures := store.get(recipe.name, trial.measurements)) is not None:
            return TrialResult(*figures)
        folder = _train(trial, runs, reporter)
        model = check(recipe).model
        for measurement in trial.measurements:
            if not _fits(measurement, model):
                continue
            value, protocol = measured(measurement, folder, recipe.seed, reporter)
            values[measurement.name], protocols[measurement.name] = value, protocol
    except FAILURES as error:
        return TrialResult(values, protocols, str(error))
    if store is not None:
        about = {
            "recipe": trial.recipe.name, "seed": recipe.seed, "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - start, 1), "versions": versions(),
        }  # fmt: skip
        store.put(recipe.name, trial.measurements, values, protocols, about)
    return TrialResult(values, protocols)


def _train(trial: Trial, runs: Path, reporter: Reporter) -> Path:
    """Train what is not trained, first what it starts from; return the run."""
    recipe = trial.settled(runs)
    folder = runs / recipe.name
    if not (folder / MODEL_FILE).is_file():
        if trial.start is not None:
            _train(trial.start, runs, reporter)
        check(recipe)
        train(recipe, folder, resume=folder.exists(), reporter=reporter)
    return folder


def _fits(measurement: Measurement, model: object) -> bool:
    measure = MEASURES.get(measurement.measure).cls
    if isinstance(model, Mage):
        return measure.needs != "classifier" and measure.fits(model)
    return measure.needs != "mage" and isinstance(model, MageClassifier)
