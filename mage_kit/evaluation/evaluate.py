"""Measures a run and writes the result beside it, RUN/eval/NAME.json, with its plot or picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic, check_writable, write_json
from mage_kit.base.signature import NoWires
from mage_kit.evaluation.measures import MEASURES, Measure, Outcome, Request
from mage_kit.evaluation.plots import plot_series
from mage_kit.evaluation.stored_results import ask, figures_of
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import kind_of
from mage_kit.store.folders import RECIPE_FILE, require_folder
from mage_kit.store.run_folders import EVAL


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
        words = "missing, the measure needs it" if item["type"] == "missing" else f"{item['input']!r}, {item['msg']}"
        raise MageKitError(f"{flag}: {words}") from None
    return MEASURES.build(config, NoWires())


def evaluate(
    run: str | Path, measure: str | Measure, *, out: str | Path | None = None, **options: Any
) -> dict[str, Any]:
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
    return run_measure(*prepared(run, measure, options), None if out is None else Path(out))


def prepared(run: str | Path, measure: str | Measure, options: Mapping[str, Any]) -> tuple[Measure, Request]:
    """Return a measure and what it is asked for, from options of both; see `evaluate`.

    Raises:
        MageKitError: If there is no such measure, or an option is not one that it takes.
    """
    if "processes" in options:
        raise MageKitError("processes: an option of the command line; a call from Python measures in one process")
    paths = {name: Path(options[name]) for name in ("data",) if options.get(name) is not None}
    names = set(Request.__dataclass_fields__)
    common = {name: value for name, value in {**options, **paths}.items() if name in names}
    own = {name: value for name, value in options.items() if name not in names}
    if isinstance(measure, str):
        measure = make_measure(measure, **own)
    elif own:
        raise MageKitError(f"{next(iter(own))}: an option of the measure itself, give it to {type(measure).__name__}")
    return measure, Request(Path(run), **common)


def run_measure(measure: Measure, request: Request, out: Path | None = None) -> dict[str, Any]:
    """Measure what is asked for, and write the result; see `evaluate`."""
    check_options(measure, request)
    target = processes.on_first(lambda: result_file(measure, request, out))
    return write_result(measure, measure.run(request), target)


def write_result(measure: Measure, outcome: Outcome, target: Path) -> dict[str, Any]:
    """Check and write what a measure left, and its plot or picture beside it; the first process alone.

    Args:
        measure: The measure.
        outcome: What it left.
        target: JSON file.

    Returns:
        The result as it stands in the file.

    Raises:
        MageKitError: If it is no outcome, says no protocol, is no JSON, or its rows hold no number.
    """
    kind = MEASURES.entry_of(measure).kind
    if not isinstance(outcome, Outcome):
        raise MageKitError(f"measure '{kind}': gave a {type(outcome).__name__}, must give an Outcome")
    options = {name: value for name, value in MEASURES.describe(measure).items() if name != "kind"}
    result = {"measure": kind, "options": options, **outcome.result}
    if processes.is_first():
        result = _check_result(measure, result)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, result, listed=True)
        _draw(measure, result, outcome.picture, target.with_suffix(".png"))
    return result


def _check_result(measure: Measure, result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as it will stand in its file, numpy's numbers as plain ones."""
    where = f"measure '{result['measure']}'"
    if not isinstance(result.get("protocol"), str) or not isinstance(result.get("rows"), dict):
        rule = 'must hold "protocol", how it was measured in a line, and "rows", {of: {name: number}}'
        raise MageKitError(f"{where}: its result holds {', '.join(sorted(result))}; it {rule}")
    try:
        result = json.loads(json.dumps(result, allow_nan=False, default=_plain))
    except (TypeError, ValueError) as error:
        raise MageKitError(f"{where}: its result must be finite numbers, words, lists and objects ({error})") from None
    if not figures_of(type(measure), result, where):
        raise MageKitError(f"{where}: rows: hold no number, must be {{of: {{name: number}}}}")
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is none of these")


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


def result_place(measure: Measure, run: Path, out: Path | None = None) -> Path:
    """Return where a measure's result of a run goes: `out`, or RUN/eval/NAME.json."""
    return out or run / EVAL / f"{type(measure).file or MEASURES.entry_of(measure).kind}.json"


def result_file(measure: Measure, request: Request, out: Path | None = None) -> Path:
    """Return the place of a result, before anything is measured.

    Raises:
        MageKitError: If there is no such run, the result is there and may not be replaced, or cannot be written.
    """
    run = request.run
    if run.is_file() and "file" in measure.takes:
        if out is None:
            raise MageKitError("--out: none given; of a checkpoint file the result needs a place: name one")
    else:
        require_folder(run)
        _check_kind(measure, run)
    target = result_place(measure, run, out)
    if target.suffix != ".json":
        raise MageKitError(f"out: '{target}', must be named .json")
    if target.exists() and not request.overwrite:
        raise MageKitError(f"out: '{target}', exists; give --overwrite to measure again")
    if run.is_dir() or out is not None:
        check_writable(target)
    return target


_HOLDS = {"mage": "a masked model", "classifier": "a classifier", "tokenizer": "a tokenizer alone"}


def _check_kind(measure: Measure, run: Path) -> None:
    """Make sure that the folder holds what is measured; a tokenizer is part of everything."""
    if measure.needs == "tokenizer" or not (run / RECIPE_FILE).is_file():
        return
    kind = kind_of(Recipe.load(run / RECIPE_FILE))
    if kind != measure.needs:
        name = MEASURES.entry_of(measure).kind
        raise MageKitError(f"'{run}': holds {_HOLDS[kind]}; '{name}' measures {_HOLDS[measure.needs]}")


def _draw(measure: Measure, result: dict[str, Any], picture: Image.Image | None, file: Path) -> None:
    curves = ask(measure, "curves", result)
    if picture is not None:
        with atomic(file) as temporary:
            picture.save(temporary, format="PNG")
    elif curves is not None:
        plot_series(dict(curves.points), curves.title, (curves.across, "top-1"), file)
