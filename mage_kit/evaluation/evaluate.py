"""Measures a run and writes the result beside it, RUN/eval/NAME.json, with its plot or picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic, check_writable, read_json, write_json
from mage_kit.base.signature import NoWires
from mage_kit.evaluation.measures import MEASURES, Measure, Outcome, Request
from mage_kit.evaluation.plots import plot_series
from mage_kit.store.folders import require_folder

EVAL = "eval"


def make_measure(kind: str, **options: Any) -> Measure:
    """Return a measure by its kind.

    Args:
        kind: As registered, "knn".
        options: Its keywords.

    Raises:
        MageKitError: If there is no such measure, or an option is none of its, or out of its range.
    """
    entry = MEASURES.get(kind)
    try:
        config = entry.config.model_validate({"kind": kind, **options}, strict=False)
    except ValidationError as error:
        item = error.errors()[0]
        name = str(item["loc"][0]) if item["loc"] else ""
        flag = entry.cls.flags.get(name, f"--{name.replace('_', '-')}")
        raise MageKitError(f"{flag}: {item['input']!r}, {item['msg']}") from None
    return MEASURES.build(config, NoWires())


def evaluate(run: str | Path, measure: str | Measure, *, out: Path | None = None, **options: Any) -> dict[str, Any]:
    """Measure a run, and write the result.

    Args:
        run: Run, model or tokenizer folder; a checkpoint file where the measure takes one.
        measure: Its kind, as "knn", or the measure itself.
        out: JSON file to write; None for RUN/eval/NAME.json. A plot or picture is written beside it, .png.
        options: Those of `Request`, and where the measure is named by its kind, its own keywords.

    Returns:
        The result as it was written: "measure" and "options" it was made with, "protocol", "rows", and what it says of
        weights and images.

    Raises:
        MageKitError: If there is no such measure or run, an option is not one that it takes, or the result is there.
    """
    names = set(Request.__dataclass_fields__)
    common = {name: value for name, value in options.items() if name in names}
    own = {name: value for name, value in options.items() if name not in names}
    if isinstance(measure, str):
        measure = make_measure(measure, **own)
    elif own:
        raise MageKitError(f"{next(iter(own))}: an option of the measure itself, give it to {type(measure).__name__}")
    return run_measure(measure, Request(Path(run), **common), out)


def run_measure(measure: Measure, request: Request, out: Path | None = None) -> dict[str, Any]:
    """Measure what is asked for, and write the result; see `evaluate`."""
    check_options(measure, request)
    target = processes.on_first(lambda: result_file(measure, request, out))
    return write_result(measure, measure.run(request), target)


def write_result(measure: Measure, outcome: Outcome, target: Path) -> dict[str, Any]:
    """Write what a measure left, and its plot or picture beside it; the first process alone.

    Args:
        measure: The measure.
        outcome: What it left.
        target: JSON file.

    Returns:
        The result as it stands in the file.
    """
    options = {name: value for name, value in MEASURES.describe(measure).items() if name != "kind"}
    result = {"measure": MEASURES.entry_of(measure).kind, "options": options, **outcome.result}
    if processes.is_first():
        target.parent.mkdir(parents=True, exist_ok=True)
        _draw(measure, result, outcome.picture, target.with_suffix(".png"))
        write_json(target, result)
    return result


def check_options(measure: Measure, request: Request) -> None:
    """Make sure that a measure follows the options that are given.

    Raises:
        MageKitError: If it does not take one of them, or says that they do not fit.
    """
    kind = MEASURES.entry_of(measure).kind
    for name in request.options():
        if name not in measure.takes and (name, request.processes) != ("processes", 1):
            raise MageKitError(f"{name}: the measure '{kind}' takes no such option")
    measure.check(request)


def result_file(measure: Measure, request: Request, out: Path | None = None) -> Path:
    """Return the place of a result, before anything is measured.

    Raises:
        MageKitError: If there is no such run, the result is there and may not be replaced, or cannot be written.
    """
    run, kind = request.run, MEASURES.entry_of(measure).kind
    if run.is_file() and "file" in measure.takes:
        if out is None:
            raise MageKitError("--out: none given; of a checkpoint file the result needs a place: name one")
    else:
        require_folder(run)
    target = out or run / EVAL / f"{type(measure).file or kind}.json"
    if target.suffix != ".json":
        raise MageKitError(f"out: '{target}', must be named .json")
    if target.exists() and not request.overwrite:
        raise MageKitError(f"out: '{target}', exists; give --overwrite to measure again")
    if run.is_dir() or out is not None:
        check_writable(target)
    return target


def read_result(file: Path) -> tuple[type[Measure], dict[str, Any]]:
    """Read a result; return its measure's class, and the contents.

    Raises:
        MageKitError: If the file holds no result, or that of a measure that is not registered.
    """
    result = read_json(file)
    kind = result.get("measure") if isinstance(result, dict) else None
    if not isinstance(kind, str) or not isinstance(result.get("rows"), dict):
        raise MageKitError(f"{file}: holds no rows of a measure")
    try:
        return MEASURES.get(kind).cls, result
    except MageKitError as error:
        raise MageKitError(f"{file}: measure: {error}") from None


def _draw(measure: Measure, result: dict[str, Any], picture: Image.Image | None, file: Path) -> None:
    curves = measure.curves(result)
    if picture is not None:
        with atomic(file) as temporary:
            picture.save(temporary, format="PNG")
    elif curves is not None:
        plot_series(dict(curves.points), curves.title, (curves.across, "top-1"), file)
