"""What was left to the machine, decided once at the start of a run and written down, so that resuming repeats it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mage_kit.base import processes
from mage_kit.base.files import read_json, write_json
from mage_kit.base.precision import Decision


class Decisions:
    """The choices of a run by name, kept in `decisions.json` of the run folder.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "decisions.json"
        content = read_json(self._file) if self._file.is_file() else {}
        self._decisions = {name: Decision(**item) for name, item in content.items()}

    def get(self, name: str, decide: Callable[[], Decision]) -> Decision:
        """Return the stored choice, or make and store it; the first process measures for all."""
        if name not in self._decisions:
            self._decisions[name] = processes.on_first(partial(_by_itself, decide))
            content = {key: asdict(item) for key, item in self._decisions.items()}
            processes.on_first(lambda: write_json(self._file, content, listed=True))
        return self._decisions[name]


def _by_itself(decide: Callable[[], Decision]) -> Decision:
    with processes.alone():
        return decide()
