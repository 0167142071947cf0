"""The folder of a run: made, held, and recognised when the run goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError, RecipeError
from mage_kit.base.files import drop_temporaries, read_json, write_json, write_text
from mage_kit.base.plugins import PLUGINS_FILE
from mage_kit.store.folders import RECIPE_FILE

DATA_FILE = "data.json"
CLASSES = "classes"  # in that file


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


def open_folder(
    out: Path,
    text: str,
    identity: Mapping[str, object],
    plugins: Mapping[str, str],
    *,
    resume: bool,
    free: frozenset[str],
) -> None:
    """Make the run folder, or make sure that it is this recipe's, on the same images.

    Args:
        out: The folder.
        text: The recipe, every number stated.
        identity: What tells its images from others.
        plugins: Folders that its plug-ins come from, by module.
        resume: Whether the run is to go on.
        free: Paths that a resumed run may change, as "$.training.workers".

    Raises:
        MageKitError: If the folder holds something else, or another run.
    """
    file, data = out / RECIPE_FILE, out / DATA_FILE
    if resume and file.is_file():
        before, now = read_json(file), json.loads(text)
        if changes := _changes("$", before, now, free):
            raise RecipeError(changes, f"--resume {out}")
        if data.is_file() and read_json(data) != json.loads(json.dumps(identity)):
            raise MageKitError(f"--resume {out}: the images are not those of the run ({data}); start a new run")
        drop_temporaries(out)
        if before != now:
            write_text(file, text)
        return
    if resume:
        raise MageKitError(f"--resume {out}: no run there ({RECIPE_FILE} is missing); start one without --resume")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MageKitError(f"out: '{out}', is not empty; choose another folder, or --resume a run of the same recipe")
    out.mkdir(parents=True, exist_ok=True)
    write_json(data, identity)
    write_json(out / PLUGINS_FILE, plugins)
    write_text(file, text)


def _changes(path: str, before: Any, now: Any, free: frozenset[str]) -> list[str]:
    """Return a line for each value that differs, but for what says only how a run is carried out."""
    if before == now or path in free:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys((*before, *now))
        return [line for key in keys for line in _changes(f"{path}.{key}", before.get(key), now.get(key), free)]
    return [f"{path}: differs, {json.dumps(before)} in the run, {json.dumps(now)} here"]
