"""Training from Python, by one call, as the command line does it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mage_kit.errors import MissingExtraError

if TYPE_CHECKING:
    from mage_kit.recipe import Recipe


def train(recipe: Recipe, out: str | os.PathLike[str], *, resume: bool = False) -> Path:
    """Train tokenizer and model as a recipe says.

    Args:
        recipe: With data and training; `Recipe.of(model).extended(...)` makes one of a model composed in Python.
        out: The run folder; new or empty, unless `resume`.
        resume: Go on from the newest checkpoint.

    Returns:
        The run folder, for `mage_kit.load`.

    Raises:
        MageKitError: If the folder holds something else, the data cannot be read, or training goes wrong.
        TrainingStopped: On SIGTERM or SIGINT, once a checkpoint is written.
    """
    try:
        from mage_kit.training.run import train as run  # brings lightning, which importing mage_kit must not
    except ImportError as error:
        if not (error.name or "").startswith("lightning"):
            raise
        raise MissingExtraError("training", "train") from None
    from mage_kit.jobs.samples import draw_samples

    return run(recipe, Path(out), resume=resume, draw=draw_samples)
