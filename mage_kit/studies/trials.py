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
from functools import partial
from pathlib import Path

from mage_kit.base.progress import Reporter
from mage_kit.base.version import versions
from mage_kit.evaluation.measures import MEASURES
from mage_kit.models import Mage, MageClassifier
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import kind_of, plugin_digests
from mage_kit.recipes.starting_points import starting_from
from mage_kit.store.folders import MODEL_FILE, RECIPE_FILE, TOKENIZER_FOLDER
from mage_kit.studies.failures import attempt
from mage_kit.studies.figure_store import FigureStore
from mage_kit.studies.measurement import Measurement, measure_run
from mage_kit.training.check import check
from mage_kit.training.train import train


@dataclass(frozen=True)
class Trial:
    """A training to run and measure.

    Args:
        recipe: With data and training.
        measurements: Its figures.
        start: Whose model or tokenizer this one starts from; None where neither.
    """

    recipe: Recipe
    measurements: Sequence[Measurement] = ()
    start: Trial | None = None

    def shared_recipe(self, runs: Path) -> Recipe:
        """Return the recipe under a name that follows from its contents, so that whoever asks for it shares the run.

        Args:
            runs: Folder of all runs, where the one that it starts from lies too.
        """
        if self.start is None:
            return self.recipe.extended(name=_name(self.recipe))
        first = self.start.shared_recipe(runs)
        # The name has no folder in it: figures of a run count wherever the runs lie.
        name = _name(starting_from(self.recipe, first.name))
        return starting_from(self.recipe, str(runs / first.name)).extended(name=name)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial.

    Args:
        values: Figures by name.
        protocols: How each was measured, by name.
        problem: What failed, and why; "" where nothing did.
    """

    values: Mapping[str, float]
    protocols: Mapping[str, str]
    problem: str = ""


def run_trial(trial: Trial, runs: Path, reporter: Reporter, store: FigureStore | None = None) -> TrialResult:
    """Train what is not trained, measure what is not measured; a failure is a result too, and costs its figure alone.

    Args:
        trial: What to run.
        runs: Folder of all runs.
        reporter: Where progress goes.
        store: Figures of runs that need not be there any more; those of this one go there too.

    Raises:
        TrainingStopped: If it was told to stop.
    """
    start = time.monotonic()
    recipe, problem = attempt(lambda: trial.shared_recipe(runs))
    if recipe is None:
        return TrialResult({}, {}, problem)
    if store is not None:
        figures, problem = attempt(partial(store.get, recipe.name, trial.measurements))
        if figures is not None or problem:
            return TrialResult(*(figures or ({}, {})), problem)
    run, problem = attempt(lambda: (train_trial(trial, runs, reporter), check(recipe).model))
    if run is None:
        return TrialResult({}, {}, problem)
    folder, model = run
    result, asked = _measure_all(trial, folder, model, reporter)
    if store is not None:
        about = {
            "recipe": trial.recipe.name, "seed": recipe.seed, "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - start, 1), "versions": versions(),
        }  # fmt: skip
        store.put(recipe.name, asked, result.values, result.protocols, about)
    return result


def train_trial(trial: Trial, runs: Path, reporter: Reporter) -> Path:
    """Train what is not trained, first what it starts from; return the run's folder."""
    recipe = trial.shared_recipe(runs)
    folder = runs / recipe.name
    if not is_trained(recipe, folder):
        if trial.start is not None:
            train_trial(trial.start, runs, reporter)
        check(recipe)
        train(recipe, folder, resume=(folder / RECIPE_FILE).is_file(), reporter=reporter)
    return folder


def is_trained(recipe: Recipe, folder: Path) -> bool:
    """Return whether a run of a recipe has ended: one of a tokenizer alone has no model."""
    return (folder / (TOKENIZER_FOLDER if kind_of(recipe) == "tokenizer" else MODEL_FILE)).exists()


def _measure_all(
    trial: Trial, folder: Path, model: object, reporter: Reporter
) -> tuple[TrialResult, list[Measurement]]:
    """Figures, and those measurements that gave one or have none of such a model."""
    values: dict[str, float] = {}
    protocols: dict[str, str] = {}
    problems, asked = [], []
    for measurement in trial.measurements:
        if not _fits(measurement, model):
            asked.append(measurement)
            continue
        figure, problem = attempt(partial(measure_run, measurement, folder, trial.recipe.seed, reporter))
        if figure is None:
            problems.append(f"{measurement.name}: {problem}")
            continue
        values[measurement.name], protocols[measurement.name] = figure
        asked.append(measurement)
    return TrialResult(values, protocols, "; ".join(problems)), asked


def _name(recipe: Recipe) -> str:
    text = json.dumps([recipe.fingerprint(), plugin_digests(recipe)], sort_keys=True)
    return f"run-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _fits(measurement: Measurement, model: object) -> bool:
    measure = MEASURES.get(measurement.measure).cls
    if isinstance(model, Mage):
        return measure.needs != "classifier" and measure.fits(model)
    return measure.needs != "mage" and isinstance(model, MageClassifier)
