"""Other people's components: named in a recipe, installed as an entry point, or simply imported."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from mage_kit.base.errors import MageKitError

PLUGINS_FILE = "plugins.json"  # beside a run's recipe: the folders that its plug-ins came from
ENTRY_POINT_GROUP = "mage_kit.components"

_loaded_entry_points: set[str] = set()


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


def load_plugins(names: Sequence[str], *folders: Path) -> list[str]:
    """Import the modules that a recipe names; return one problem a failure.

    Args:
        names: Importable module names.
        folders: Searched besides the installed packages: the current folder and the recipe's own.
    """
    problems = []
    with _on_path([Path.cwd(), *folders]):
        for number, name in enumerate(names):
            try:
                importlib.import_module(name)
            except (Exception, SystemExit) as error:  # see above
                problems.append(f"$.plugins[{number}]: '{name}' {_describe(error)}")
    return problems


def _describe(error: BaseException) -> str:
    """Say why a module cannot be had, and where in it, without the name of an exception."""
    if isinstance(error, MageKitError):
        return f"declares a part wrongly: {error}"
    text = "cannot be imported from the current folder, the recipe's or the installed packages"
    places = [place for place in traceback.extract_tb(error.__traceback__) if "importlib" not in place.filename]
    line = f", line {places[-1].lineno} of {places[-1].filename}" if len(places) > 1 else ""
    return f"{text} ({error or 'it gives no reason'}{line})"


def plugin_folders(names: Sequence[str]) -> dict[str, str]:
    """Return the folder on the import path that each imported plug-in came from, so that a run finds it again."""
    folders = {}
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            levels = name.count(".") + (1 if Path(file).name == "__init__.py" else 0)
            folders[name] = str(Path(file).resolve().parents[levels])
    return folders


def stored_folders(folder: Path) -> list[Path]:
    """Return the plug-in folders written beside a run's recipe; none where there is no such file."""
    try:
        places = json.loads((folder / PLUGINS_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return []
    return [Path(place) for place in places.values()] if isinstance(places, dict) else []


@contextlib.contextmanager
def _on_path(folders: Sequence[Path]) -> Iterator[None]:
    extra = [str(folder.resolve()) for folder in folders if str(folder.resolve()) not in sys.path]
    sys.path[:0] = extra
    try:
        yield
    finally:
        for folder in extra:
            if folder in sys.path:
                sys.path.remove(folder)
