"""A study's trainings as commands, for those who have more than one GPU: a later run takes what they trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mage_kit.base.files import write_text
from mage_kit.studies.run_study import RUNS
from mage_kit.studies.study import Study
from mage_kit.studies.study_trials import check_rows, trial_of
from mage_kit.studies.trials import Trial, is_trained


def training_commands(
    study: Study, scale: str, out: Path, seeds: Sequence[int] | None = None, overrides: Sequence[str] = ()
) -> list[str]:
    """Write the recipe of each training that is not there yet; return the commands, in an order that works.

    Args:
        study: The study.
        scale: One of its scales.
        out: As of `run_study`; recipes go to OUT/recipes.
        seeds: One training of each row for each; None for the study's own.
        overrides: Changes of every row that has such a place.

    Raises:
        MageKitError: If a row's recipe does not hold, or an override changes no row.
    """
    check_rows(study, scale, overrides)
    runs, commands = out / RUNS, dict[str, str]()
    for seed in seeds or study.seeds:
        for row in study.able_rows(scale):
            for trial in _with_starts(trial_of(study, row.name, scale, overrides)(seed)):
                recipe = trial.shared_recipe(runs)
                folder, file = runs / recipe.name, out / "recipes" / f"{recipe.name}.json"
                if recipe.name in commands or is_trained(recipe, folder):
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, recipe.to_json())
                commands[recipe.name] = f"mage-kit train {file} --out {folder}"
    return list(commands.values())


def _with_starts(trial: Trial) -> Iterator[Trial]:
    if trial.start is not None:
        yield from _with_starts(trial.start)
    yield trial
