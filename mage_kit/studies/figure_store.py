"""Figures of runs as small files, which outlive the runs: another machine goes on from them without the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json, write_json
from mage_kit.studies.measurement import Measurement


class FigureStore:
    """One JSON file a run, named as the run is: by its recipe's contents.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, run: str, measurements: Sequence[Measurement]) -> tuple[dict[str, float], dict[str, str]] | None:
        """Return a run's figures and protocols by name; None unless all are there that the run was found to have.

        Raises:
            MageKitError: If the file is something else.
        """
        file = self.folder / f"{run}.json"
        if not file.is_file():
            return None
        content = read_json(file)
        try:
            figures, absent = content["figures"], set(content["absent"])
            keys = {each.name: each.key() for each in measurements}
            if any(key not in figures and key not in absent for key in keys.values()):
                return None
            mine = {name: figures[key] for name, key in keys.items() if key in figures}
            values = {name: float(each["value"]) for name, each in mine.items()}
            return values, {name: str(each["protocol"]) for name, each in mine.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MageKitError(f"{file}: holds no figures of a run ({type(error).__name__}: {error})") from None

    def put(
        self,
        run: str,
        measurements: Sequence[Measurement],
        values: Mapping[str, float],
        protocols: Mapping[str, str],
        about: Mapping[str, object],
    ) -> None:
        """Write a run's figures beside those that are there.

        Args:
            run: Its name.
            measurements: That were asked for; those without a value are noted as absent.
            values: By name.
            protocols: By name.
            about: What else is to stand there, ready for JSON.
        """
        file = self.folder / f"{run}.json"
        before = read_json(file) if file.is_file() else {"figures": {}, "absent": []}
        figures = {
            each.key(): {"value": values[each.name], "protocol": protocols[each.name]}
            for each in measurements
            if each.name in values
        }
        absent = {each.key() for each in measurements if each.name not in values} | set(before["absent"])
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {**about, "figures": {**before["figures"], **figures}, "absent": sorted(absent)})
