"""Other people's components: named in a recipe, installed as an entry point, or simply imported.

What a recipe, a run or a tokenizer names under `plugins` is code that would run when it is loaded. It runs unasked
where the user has it anyway: imported already, or installed. A module that only the current folder or the recipe's own
folder has runs after consent alone (`consent`, `--allow-plugins`), and where to look is never taken from a file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from mage_kit.base.errors import MageKitError

PLUGINS_FILE = "plugins.json"  # beside a run's recipe: the folders that its plug-ins came from, for people
ENTRY_POINT_GROUP = "mage_kit.components"
CONSENT = "MAGE_KIT_ALLOW_PLUGINS"  # environment variable by which consent reaches child processes; "1" says yes

_loaded_entry_points: set[str] = set()
_agreed: ContextVar[bool] = ContextVar("agreed", default=False)


@contextlib.contextmanager
def consent(given: bool = True) -> Iterator[None]:
    """Let modules of the current folder and of a recipe's folder run while this lasts; it takes no consent back.

    Args:
        given: Whether the user agrees.
    """
    token = _agreed.set(_agreed.get() or given)
    try:
        yield
    finally:
        _agreed.reset(token)


def has_consent() -> bool:
    """Return whether the user agreed, in this process or in the one that started it."""
    return _agreed.get() or os.environ.get(CONSENT) == "1"


def load_entry_points() -> list[str]:
    """Import every installed package's components, once; return one problem a failure."""
    problems = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.value in _loaded_entry_points:
            continue
        try:
            point.load()
            _loaded_entry_points.add(point.value)
        except (Exception, SystemExit) as error:  # a plug-in may raise anything, and must not take the program down
            problems.append(f"entry point {point.name} = {point.value}: {_describe(error)}")
    return problems


def load_plugins(names: Sequence[str], folder: Path | None = None, homes: dict[str, str] | None = None) -> list[str]:
    """Import the modules that a recipe names; return one problem a failure, or a module that would need consent.

    Args:
        names: Importable module names.
        folder: The recipe's own, looked into after the current one, with consent.
        homes: Folders that they came from when the recipe was written; they are told, and never looked into.
    """
    places = [Path.cwd(), *([] if folder is None else [folder])]
    problems = []
    for number, name in enumerate(names):
        if (line := _load(name, places, (homes or {}).get(name))) is not None:
            problems.append(f"$.plugins[{number}]: '{name}' {line}")
    return problems


def _load(name: str, places: Sequence[Path], home: str | None) -> str | None:
    """Import a module if it may run; return why not."""
    if name.split(".")[0] in sys.stdlib_module_names:
        return "is a part of Python itself, which holds no components"
    try:
        if name in sys.modules or _is_installed(name):
            importlib.import_module(name)
            return None
        file = _file_in(name, places)
        if file is not None and not has_consent():
            rule = "if you trust it, say so: --allow-plugins on the command line, plugins=True in Python"
            return f"would run the code of {file}; {rule}"
        with _on_path(places):
            importlib.import_module(name)
    except (Exception, SystemExit) as error:  # see above
        before = "" if home is None else f"; it came from '{home}' when this was written"
        return _describe(error) + before
    return None


def _is_installed(name: str) -> bool:
    """Whether a module is found without the current folder, which `python -m` and notebooks put on the path."""
    trusted = [place for place in sys.path if not _is_current(place)]
    before, sys.path[:] = list(sys.path), trusted
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
    finally:
        sys.path[:] = before


def _is_current(place: str) -> bool:
    """Whether an entry of the path is the current folder, and the user did not put it there (PYTHONPATH)."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = Path.cwd().resolve()
    same = place == "" or Path(place).resolve() == here
    return same and not any(entry and Path(entry).resolve() == here for entry in entries)


def _file_in(name: str, places: Sequence[Path]) -> str | None:
    """Where a module, or the package that it is in, lies in some folders; nothing of it is run."""
    spec = PathFinder.find_spec(name.split(".")[0], [str(place.resolve()) for place in places])
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def _describe(error: BaseException) -> str:
    """Say why a module cannot be had, and where in it, without the name of an exception."""
    if isinstance(error, MageKitError):
        return f"declares a part wrongly: {error}"
    text = "cannot be imported from the current folder, the recipe's or the installed packages"
    places = [place for place in traceback.extract_tb(error.__traceback__) if "importlib" not in place.filename]
    line = f", line {places[-1].lineno} of {places[-1].filename}" if len(places) > 1 else ""
    return f"{text} ({error or 'it gives no reason'}{line})"


def plugin_folders(names: Sequence[str]) -> dict[str, str]:
    """Return the folder on the import path that each imported plug-in came from, to tell who loads the run later."""
    folders = {}
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            levels = name.count(".") + (1 if Path(file).name == "__init__.py" else 0)
            folders[name] = str(Path(file).resolve().parents[levels])
    return folders


def stored_folders(folder: Path) -> dict[str, str]:
    """Return the plug-in folders written beside a run's recipe, by module; none where there is no such file."""
    try:
        places = json.loads((folder / PLUGINS_FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(place) for name, place in places.items()} if isinstance(places, dict) else {}


@contextlib.contextmanager
def _on_path(folders: Sequence[Path]) -> Iterator[None]:
    """Folders on the import path, after everything that is installed."""
    extra = [str(folder.resolve()) for folder in folders if str(folder.resolve()) not in sys.path]
    sys.path.extend(extra)
    try:
        yield
    finally:
        for folder in extra:
            if folder in sys.path:
                sys.path.remove(folder)
