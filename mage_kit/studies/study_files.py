"""Studies that ship, by name, and studies of files."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from mage_kit.base.errors import MageKitError
from mage_kit.base.json_text import parse_json
from mage_kit.studies.study import Study

_HERE = Path(__file__).parent


def study_names() -> list[str]:
    """Return the names of the studies that ship, sorted as tables are."""
    return sorted((file.stem for file in _HERE.glob("*.json")), key=_order)


def _order(name: str) -> tuple[str, list[tuple[int, str]]]:
    """main-5b before main-10, main before supp."""
    part, _, rest = name.partition("-")
    digits = "".join(letter for letter in rest if letter.isdigit())
    return part, [(int(digits or 0), rest)]


def load_study(name: str) -> Study:
    """Return a study that ships, or one of a file.

    Args:
        name: As "supp-7"; or the path of a JSON file.

    Raises:
        MageKitError: If there is none, or the file is no study; says what is wrong with it.
    """
    file = _HERE / f"{name}.json" if name in study_names() else Path(name)
    if not file.is_file():
        raise MageKitError(f"study: '{name}', must be one of {', '.join(study_names())}, or a file")
    try:
        return Study.model_validate(parse_json(file.read_text(encoding="utf-8")), strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "$"
        raise MageKitError(f"{file}: {place}: {first['msg']}") from None
    except ValueError as error:
        raise MageKitError(f"{file}: {error}") from None
