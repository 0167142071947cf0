"""What a measure, which may be a plug-in's, says of a result, and results as they stand in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.base.manifest import MANIFEST_FILE
from mage_kit.evaluation.measures import MEASURES, Curves, Figure, Measure, Outcome, Request
from mage_kit.planning.passes import Passes
from mage_kit.store.run_folders import EVAL

_ANSWERS: dict[str, Any] = {"heading": str, "note": str, "curves": Curves | None, "paper": tuple, "passes": Passes}


def ask(measure: type[Measure] | Measure, what: str, *about: Any) -> Any:
    """Ask a measure, which may be a plug-in's, what it says of a result.

    Args:
        measure: The measure or its class.
        what: "heading", "note", "curves", "paper" or "passes".
        about: What that method takes.

    Raises:
        MageKitError: If it fails, or gives something of another type.
    """
    name = f"{(measure if isinstance(measure, type) else type(measure)).__name__}.{what}"
    try:
        answer = getattr(measure, what)(*about)
    except MageKitError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise MageKitError(f"{name}: failed ({type(error).__name__}: {error})") from None
    if not isinstance(answer, _ANSWERS[what]):
        raise MageKitError(f"{name}: gave a {type(answer).__name__}")
    return answer


class _Elsewhere(Measure):
    """A measure that this program does not know."""

    def run(self, request: Request) -> Outcome:
        """There is nothing to run."""
        raise MageKitError("measure: not registered here")

    @classmethod
    def heading(cls, result: Mapping[str, Any]) -> str:
        """Return the measure's kind, and that it is none of those known here."""
        return f"{result['measure']} (a measure that is not registered here)"


def figures_of(measure: type[Measure], result: Mapping[str, Any], where: str) -> list[Figure]:
    """Return every number of a result.

    Args:
        measure: Its class.
        result: As it stands in a file.
        where: What it is, for errors.

    Raises:
        MageKitError: If its rows are not what the measure takes them for.
    """
    try:
        figures = list(measure.figures(result))
        if not all(isinstance(each, Figure) and isinstance(each.value, int | float) for each in figures):
            raise TypeError("one is no Figure of a number")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        rule = f"`figures` of {measure.__name__} cannot read them"
        raise MageKitError(f"{where}: rows: {rule} ({type(error).__name__}: {error})") from None
    return [replace(each, value=float(each.value)) for each in figures]


def result_files(run: Path) -> list[Path]:
    """Return the results of a run, RUN/eval/*.json, by name."""
    return sorted(file for file in (run / EVAL).glob("*.json") if file.name != MANIFEST_FILE)


def read_result(file: Path) -> tuple[type[Measure], dict[str, Any]]:
    """Read a result; return its measure's class, and the contents.

    A measure that is not registered here, a plug-in's, is stood in for by one that takes rows as they are.

    Raises:
        MageKitError: If the file holds no result.
    """
    result = read_json(file)
    kind = result.get("measure") if isinstance(result, dict) else None
    if not isinstance(kind, str) or not isinstance(result.get("rows"), dict):
        raise MageKitError(f"{file}: holds no rows of a measure")
    return (MEASURES.get(kind).cls if kind in MEASURES.kinds() else _Elsewhere), result
