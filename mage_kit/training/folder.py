"""The folder of a run: made, held, and recognised when the run goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError, RecipeError
from mage_kit.base.files import LOCK_FILE, drop_temporaries, locked, read_json, write_json, write_text
from mage_kit.base.manifest import MANIFEST_FILE
from mage_kit.base.plugin_code import code_digest
from mage_kit.base.plugins import PLUGINS_FILE
from mage_kit.store.folders import RECIPE_FILE

DATA_FILE = "data.json"
CLASSES = "classes"  # in that file
CODE_FILE = "code.json"  # digests of the plug-ins' code, by module
_BEGINNING = (LOCK_FILE, MANIFEST_FILE, DATA_FILE, PLUGINS_FILE, CODE_FILE)  # before the recipe makes it a run's


@contextlib.contextmanager
def held_by_first(hold: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Enter a context in the first process; its error is everybody's."""
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(hold))
        yield


@contextlib.contextmanager
def hold_folder(out: Path, resume: bool, flag: str = "--resume") -> Iterator[None]:
    """Hold a run's folder: lock first, then look, then write, so that of two trainings one learns of the other.

    Args:
        out: The folder; made where there is none.
        resume: Whether a run must be there.
        flag: How that was asked for, for the error.

    Raises:
        MageKitError: If another process holds it, or it holds something else; nothing is written then.
    """
    _check(out, resume, flag)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "out"):
        yield


def _check(out: Path, resume: bool, flag: str) -> None:
    """Raise MageKitError for a folder that can be neither begun nor gone on with."""
    if (out / RECIPE_FILE).is_file() and resume:
        return
    if resume:
        raise MageKitError(f"{flag} {out}: no run there ({RECIPE_FILE} is missing); start one without {flag}")
    if out.exists() and (not out.is_dir() or any(not _is_beginning(path.name) for path in out.iterdir())):
        raise MageKitError(f"out: '{out}', is not empty; choose another folder, or --resume a run of the same recipe")


def _is_beginning(name: str) -> bool:
    """Whether a file is one that a training writes before its recipe, or half-written: it was killed in between."""
    return name in _BEGINNING or any(name.startswith(f".{part}.") for part in (*_BEGINNING, RECIPE_FILE))


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
    flag: str = "--resume",
    change: Callable[[], None] = lambda: None,
) -> None:
    """Make a folder this recipe's, or make sure that it is, on the same images.

    Args:
        out: The folder, held.
        text: The recipe, every number stated.
        identity: What tells its images from others.
        plugins: Folders that its plug-ins come from, by module.
        resume: Whether the run is to go on.
        free: Paths that a resumed run may change, as "$.training.workers".
        flag: How going on was asked for, for errors.
        change: Called before its recipe is replaced by one that differs in them; an error leaves all as it was.

    Raises:
        MageKitError: If the folder holds something else, or another run.
    """
    file, data = out / RECIPE_FILE, out / DATA_FILE
    _check(out, resume, flag)
    if resume:
        before, now = read_json(file), json.loads(text)
        if changes := _changes("$", before, now, free):
            raise RecipeError(changes, f"{flag} {out}")
        if data.is_file() and read_json(data) != json.loads(json.dumps(identity)):
            raise MageKitError(f"{flag} {out}: the images are not those of the run ({data}); start a new run")
        drop_temporaries(out)
        if before != now:
            change()
            write_text(file, text, listed=True)
        return
    drop_temporaries(out)
    write_json(data, identity, listed=True)
    write_json(out / PLUGINS_FILE, plugins, listed=True)
    write_json(out / CODE_FILE, {name: code_digest(name) for name in plugins}, listed=True)
    write_text(file, text, listed=True)


def changed_plugins(out: Path) -> list[str]:
    """Return the names of plug-ins whose code is not what it was when a run began."""
    file = out / CODE_FILE
    before = read_json(file) if file.is_file() else {}
    return [name for name, digest in before.items() if code_digest(name) != digest]


def _changes(path: str, before: Any, now: Any, free: frozenset[str]) -> list[str]:
    """Return a line for each value that differs, but for what says only how a run is carried out."""
    if before == now or path in free:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys((*before, *now))
        return [line for key in keys for line in _changes(f"{path}.{key}", before.get(key), now.get(key), free)]
    return [f"{path}: differs, {json.dumps(before)} in the run, {json.dumps(now)} here"]
