"""Does this machine, with this version, train as it did? The first steps of a stored run, repeated and compared."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.base.progress import Reporter
from mage_kit.recipes.answers import repeated, task_of
from mage_kit.recipes.recipe import Recipe
from mage_kit.store.folders import RECIPE_FILE, TOKENIZER_FOLDER
from mage_kit.training.metrics import read_metrics
from mage_kit.training.tasks import TASKS
from mage_kit.training.train import train

REFERENCE_FILE = "reference.json"
TOLERANCE = 0.02  # relative, where a run states none
_LINES = 10


@dataclass(frozen=True)
class Compared:
    """One line of the curve.

    Args:
        step: Of the model's training.
        stored: Loss then.
        here: Loss now.
    """

    step: int
    stored: float
    here: float

    @property
    def deviation(self) -> float:
        """Relative to the stored loss."""
        return abs(self.here - self.stored) / max(abs(self.stored), 1e-12)


@dataclass(frozen=True)
class Verdict:
    """A repeated beginning.

    Args:
        lines: The curve, compared.
        tolerance: Largest relative deviation allowed.
        about: What the stored run says of itself.
    """

    lines: tuple[Compared, ...]
    tolerance: float
    about: str

    @property
    def holds(self) -> bool:
        """Whether every line lies within the tolerance."""
        return all(line.deviation <= self.tolerance for line in self.lines)


def verify(run: Path, lines: int | None = None, reporter: Reporter | None = None) -> Verdict:
    """Repeat the first steps of what a run's recipe is for and compare its curve.

    Args:
        run: A run's folder with its metrics and its tokenizer, or a shipped reference.
        lines: Lines of the log to repeat; None for what the reference states, or ten.
        reporter: Where progress goes.

    Raises:
        MageKitError: If the folder holds no such run.
    """
    if not (run / RECIPE_FILE).is_file():
        raise MageKitError(f"run: '{run}', must be a run folder ({RECIPE_FILE} is missing)")
    stated: dict[str, Any] = read_json(run / REFERENCE_FILE) if (run / REFERENCE_FILE).is_file() else {}
    original = Recipe.load(run / RECIPE_FILE)
    task = task_of(original)
    if task is None:
        raise MageKitError(f"run: '{run}', its recipe trains nothing")
    stage = TASKS.get(task).cls.stage
    stored = [each for each in read_metrics(run, stage) if "loss" in each][: lines or stated.get("lines", _LINES)]
    if not stored:
        raise MageKitError(f"run: '{run}', has no line of the {stage}'s training in its metrics.jsonl")
    own = run if (run / TOKENIZER_FOLDER).is_dir() else None
    recipe = repeated(original, own if stage != "tokenizer" else None)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "again"
        train(recipe, out, until=stored[-1]["step"], reporter=reporter)
        again = {record["step"]: record["loss"] for record in read_metrics(out, stage) if "loss" in record}
    compared = tuple(
        Compared(record["step"], record["loss"], again[record["step"]]) for record in stored if record["step"] in again
    )
    if not compared:
        rule = "log_every may have been changed when the run was resumed"
        raise MageKitError(f"run: '{run}', none of its lines' steps was logged again; {rule}")
    return Verdict(compared, float(stated.get("tolerance", TOLERANCE)), str(stated.get("about", "")))
