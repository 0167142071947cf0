"""The folder of a run: made, held, and recognised when the run goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mage_kit import processes
from mage_kit.datasets import Dataset
from mage_kit.errors import MageKitError, RecipeError
from mage_kit.files import drop_temporaries, read_json, write_json, write_text
from mage_kit.plugins import PLUGINS_FILE, plugin_folders
from mage_kit.recipe_base import RecipeBase
from mage_kit.storage import RECIPE_FILE

DATA_FILE = "data.json"
CLASSES = "classes"  # in that file
_FREE = frozenset(
    {"workers", "shard", "keep", "log_every", "checkpoint_every", "samples_every", "skip_limit", "rollbacks"}
)  # of training: how it is carried out, not what; a resumed run may change them


@contextlib.contextmanager
def held_by_first(hold: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in the first process; its error is everybody's."""
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(hold))
        yield


def learned_classes(run: Path) -> tuple[str, ...]:
    """Return the names of the classes that a run learned, by number; none of a converted classifier."""
    file = run / DATA_FILE
    return tuple(read_json(file).get(CLASSES, ())) if file.is_file() else ()


def open_folder(recipe: RecipeBase, dataset: Dataset, out: Path, resume: bool, free: frozenset[str]) -> None:
    """Make the run folder, or make sure that it is this recipe's, on the same images.

    Args:
        recipe: What the run does.
        dataset: Its images.
        out: The folder.
        resume: Whether the run is to go on.
        free: What of `training` a resumed run may change, besides how it is carried out.

    Raises:
        MageKitError: If the folder holds something else, or another run.
    """
    stored, identity = out / RECIPE_FILE, out / DATA_FILE
    if resume and stored.is_file():
        before, now = (json.loads(each.to_json()) for each in (type(recipe).load(stored), recipe))
        if changed := _changes("$", before, now, _FREE | free):
            raise RecipeError(changed, f"--resume {out}")
        if identity.is_file() and read_json(identity) != dataset.identity():
            raise MageKitError(f"--resume {out}: the images are not those of the run ({identity}); start a new run")
        drop_temporaries(out)
        if before != now:
            write_text(stored, recipe.to_json())
        return
    if resume:
        raise MageKitError(f"--resume {out}: no run there ({RECIPE_FILE} is missing); start one without --resume")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MageKitError(f"out: '{out}', is not empty; choose another folder, or --resume a run of the same recipe")
    out.mkdir(parents=True, exist_ok=True)
    write_json(identity, dataset.identity())
    write_json(out / PLUGINS_FILE, plugin_folders(recipe.plugins))
    write_text(stored, recipe.to_json())


def _changes(path: str, before: Any, now: Any, free: frozenset[str]) -> list[str]:
    """Return a line for each value that differs, but for what says only how a run is carried out."""
    if before == now or (path.startswith("$.training.") and path.rpartition(".")[2] in free):
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys((*before, *now))
        return [line for key in keys for line in _changes(f"{path}.{key}", before.get(key), now.get(key), free)]
    return [f"{path}: differs, {json.dumps(before)} in the run, {json.dumps(now)} here"]
