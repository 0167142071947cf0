"""`mage-kit eval KIND`: one command a measure, made from its keywords; a measure of a plug-in has one too."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic_core import to_jsonable_python
from typer.core import TyperGroup

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.base.json_text import json_or_text
from mage_kit.base.processes import is_first
from mage_kit.base.registry import Slot
from mage_kit.cli.app import OverwriteOption, console
from mage_kit.cli.decoding_options import DecodingOptions, SeedOption, Weights, WeightsOption
from mage_kit.cli.groups import options_of
from mage_kit.cli.processes import ProcessesOption, count_processes, spread_out

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from mage_kit.base.signature import Entry
    from mage_kit.evaluation.measures import Measure

_RUNS = {
    "mage": "Run or model folder, as written by train or convert.",
    "classifier": "Folder of a classifier, as written by train or convert.",
    "tokenizer": "Tokenizer, run or model folder, as written by train or convert.",
}
_DRAWS = Annotated[int, typer.Option(min=0, help="Of what is drawn or set aside.")]
_SHARED: dict[str, tuple[Any, Any]] = {
    "data": (
        Annotated[Path | None, typer.Option(help="Folder of images: train/ and val/, or class folders.")], None
    ),
    "weights": (WeightsOption, Weights.raw),
    "seed": (_DRAWS, 0),
    "bf16": (Annotated[bool, typer.Option("--bf16", help="Compute features in bfloat16.")], False),
    "refresh": (Annotated[bool, typer.Option("--refresh", help="Extract features again.")], False),
    "resume": (Annotated[bool, typer.Option("--resume", help="Go on with one that was interrupted.")], False),
    "processes": (ProcessesOption, None),
    "out": (Annotated[Path | None, typer.Option(help="JSON file; default RUN/eval/NAME.json.")], None),
    "overwrite": (OverwriteOption, False),
    "plugin": (
        Annotated[list[str] | None, typer.Option(help="Module of a plug-in that brings the measure; several times.")],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")], False),
}  # fmt: skip
_ALWAYS = frozenset({"out", "overwrite", "as_json", "plugin"})
_UNIONS = (Union, UnionType)
_JSON = object()  # stands for what no plain option can hold: a component, an object, one of several types
_CALLED = {"bf16": "precision"}  # as `Measure.takes` has it


class MeasureGroup(TyperGroup):
    """The commands under `eval`: those written by hand, and one for each registered measure."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all, those of installed plug-ins too."""
        from mage_kit.base.plugins import load_entry_points
        from mage_kit.evaluation.measures import MEASURES

        load_entry_points()
        return [*MEASURES.kinds(), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one of them; None where there is none of that name."""
        from mage_kit.evaluation.measures import MEASURES

        if cmd_name in MEASURES.kinds():
            return measure_command(MEASURES.get(cmd_name))
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is meant; one that a plug-in brings once the plug-ins are loaded."""
        from mage_kit.evaluation.measures import MEASURES

        if args and args[0] not in MEASURES.kinds() and super().get_command(ctx, args[0]) is None:
            problems = _load_plugins(args)
            if args[0] not in MEASURES.kinds() and not args[0].startswith("-"):
                known = [*MEASURES.kinds(), *super().list_commands(ctx)]
                rule = "a plug-in's is known where --plugin names its module, or `plugins` in RUN/recipe.json"
                near = nearest(args[0], known)
                raise MageKitError("\n".join([f"eval: unknown measure '{args[0]}'{near}; {rule}", *problems]))
        return super().resolve_command(ctx, args)


def _load_plugins(args: list[str]) -> list[str]:
    """Load what is installed, what --plugin names, and what the recipes of runs among the arguments name."""
    from mage_kit.base.plugins import consent, load_entry_points, load_plugins
    from mage_kit.recipes import Recipe
    from mage_kit.store.folders import RECIPE_FILE

    modules = [after for word, after in pairwise(args) if word == "--plugin"]
    modules += [word.removeprefix("--plugin=") for word in args if word.startswith("--plugin=")]
    with consent():  # named on the command line by whoever calls it
        problems = load_entry_points() + load_plugins(modules)
    for place in map(Path, args[1:]):
        if (place / RECIPE_FILE).is_file():
            Recipe.load(place / RECIPE_FILE)
    return problems


def measure_command(entry: Entry[Measure]) -> Any:
    """Return the command of a measure: RUN, its own keywords, and the options of others that it takes."""
    takes = entry.cls.takes
    own = {name: field for name, field in entry.config.model_fields.items() if name != "kind"}
    forms = {
        name: form for name, form in _SHARED.items() if name in _ALWAYS or _CALLED.get(name, name) in takes
    }  # fmt: skip
    if "decoding" in takes:
        forms["seed"] = (SeedOption, 0)
    folder = _RUNS[entry.cls.needs] + (" Or a checkpoint file." if "file" in takes else "")
    run_argument = Annotated[Path, typer.Argument(metavar="RUN", help=folder)]
    parameters = [_parameter("run", run_argument, inspect.Parameter.empty)]
    parameters += [_own_parameter(entry, name, field) for name, field in own.items()]
    parameters += options_of(DecodingOptions) if "decoding" in takes else []
    parameters += [_parameter(name, hint, default) for name, (hint, default) in forms.items()]

    def run(**values: Any) -> None:
        options = {name: _value(entry, name, field, values.pop(name)) for name, field in own.items()}
        decoding = {name: values.pop(name) for name in list(values) if name not in {*forms, "run"}}
        _run(entry.kind, {name: value for name, value in options.items() if value is not None}, decoding, values)

    run.__name__, run.__doc__ = entry.kind.replace("-", "_"), (inspect.getdoc(entry.cls) or "").split("\n\nArgs:")[0]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    return _as_click(entry.kind, run)


def _as_click(name: str, run: Callable[..., None]) -> Any:
    alone = typer.Typer(add_completion=False)
    alone.command(name)(run)
    return typer.main.get_command(alone)


def _run(kind: str, own: dict[str, Any], decoding: dict[str, Any], options: dict[str, Any]) -> None:
    from mage_kit.base import processes
    from mage_kit.base.plugins import consent, load_plugins
    from mage_kit.base.progress import Reporter
    from mage_kit.cli.figures import show_result
    from mage_kit.evaluation.evaluate import check_options, make_measure, result_file, result_place, run_measure
    from mage_kit.evaluation.measures import MEASURES, Request
    from mage_kit.store.folders import best_device

    command = {name: options.pop(name) for name in ("run", "out", "as_json", "plugin")}
    if options.pop("bf16", False):
        options["precision"] = "bfloat16"
    if "weights" in options:
        options["weights"] = options["weights"].value
    if decoding:
        options["decoding"] = {
            name: value for name, value in DecodingOptions(**decoding).changes().items() if value is not None
        }
    with consent():  # named on the command line by whoever calls it
        if problems := load_plugins(command["plugin"] or []):
            raise MageKitError("\n".join(problems))
    measure = make_measure(kind, **own)
    request = Request(command["run"], **options)
    check_options(measure, request)
    if "processes" in measure.takes:
        count_processes(options["processes"])
        result_file(measure, request, command["out"])  # before anything is started
        spread_out(options["processes"])
        processes.start(best_device())
    reporter = Reporter() if is_first() else Reporter.silent()
    result = run_measure(measure, replace(request, reporter=reporter), command["out"])
    if command["as_json"] and is_first():
        typer.echo(json.dumps(result, indent=2))
    elif is_first():
        show_result(console, MEASURES.get(kind).cls, result)
        console.print(f"written: {result_place(measure, command['run'], command['out'])}", soft_wrap=True)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _own_parameter(entry: Entry[Measure], name: str, field: FieldInfo) -> inspect.Parameter:
    """A keyword of a measure as an option; one without a default as an argument."""
    flag = _flag(entry, name)
    plain, many = _plain_type(field.annotation)
    words, is_text = field.description or "", plain is _JSON or (many and plain in (int, float))
    if is_text:
        words += " JSON." if plain is _JSON else " Separated by commas."
    hint = str if is_text else list[str] if many else plain
    if field.is_required():
        return _parameter(name, Annotated[hint, typer.Argument(help=words)], inspect._empty)
    if plain is bool:
        flag += f"/--no-{flag.removeprefix('--')}"
        return _parameter(name, Annotated[bool, typer.Option(flag, help=words)], field.default)
    default = _as_text(field.default, many) if is_text else list(field.default) if many else field.default
    return _parameter(name, Annotated[hint | None, typer.Option(flag, help=words)], default or None)


def _flag(entry: Entry[Measure], name: str) -> str:
    return entry.cls.flags.get(name, f"--{name.replace('_', '-')}")


def _as_text(value: Any, many: bool) -> str | None:
    if value is None:
        return None
    return ",".join(map(str, value)) if many else json.dumps(to_jsonable_python(value))


def _plain_type(hint: Any) -> tuple[Any, bool]:
    """What a keyword holds, and whether it holds several: bool, int, float, str, Path, a Literal, else `_JSON`."""
    if get_origin(hint) is Annotated:
        return _plain_type(get_args(hint)[0])
    if get_origin(hint) is Literal or hint in (bool, int, float, str, Path):
        return hint, False
    parts = [part for part in get_args(hint) if part not in (type(None), Ellipsis)]
    if get_origin(hint) in (tuple, list) and len(set(parts)) == 1:
        inner, is_deep = _plain_type(parts[0])
        return (_JSON, False) if is_deep or inner in (_JSON, bool) else (inner, True)
    return _plain_type(parts[0]) if len(parts) == 1 and get_origin(hint) in _UNIONS else (_JSON, False)


def _holds_component(*hints: Any) -> bool:
    return any(isinstance(hint, Slot) or _holds_component(*get_args(hint)) for hint in hints)


def _value(entry: Entry[Measure], name: str, field: FieldInfo, value: Any) -> Any:
    """What was given as the measure takes it; None where its own default is to stand."""
    plain, many = _plain_type(field.annotation)
    if value is None:
        return value
    flag = _flag(entry, name)
    if plain is _JSON:
        try:
            data = json_or_text(value)
        except ValueError as error:
            raise MageKitError(f"{flag}: {error}") from None
        is_kind = isinstance(data, str) and _holds_component(field.annotation, *field.metadata)
        return {"kind": data} if is_kind else data
    if not many or plain not in (int, float):
        return tuple(value) if many else value
    try:
        return tuple(plain(part) for part in value.split(",") if part.strip())
    except ValueError:
        words = "whole numbers" if plain is int else "numbers"
        raise MageKitError(f"{flag}: '{value}', must be {words}, separated by commas, as 1,5,10") from None
