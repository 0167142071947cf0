"""What components there are, and what a mask ratio or a schedule looks like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.table import Column, Table
from rich.text import Text

import mage_kit.evaluation.measures
import mage_kit.recipes.recipe  # noqa: F401  # with the line above it imports every family
from mage_kit.base.errors import MageKitError, RecipeError, nearest
from mage_kit.base.plugins import consent, load_entry_points, load_plugins
from mage_kit.base.registry import FAMILIES, Registry
from mage_kit.base.signature import Entry, NoWires
from mage_kit.evaluation.plots import bars, plot_line
from mage_kit.mask_ratios import MASK_RATIOS, MaskRatio, draw
from mage_kit.recipes.problems import problems
from mage_kit.schedules import SCHEDULES, Schedule

_DRAWS = 100_000
_BINS = 20


def component_tables(family: str | None, plugins: Sequence[str]) -> list[Table]:
    """Return one table a family: kinds, prose, parameters with types, bounds and defaults.

    Raises:
        MageKitError: If there is no such family.
    """
    _import(plugins)
    if family is not None and family not in FAMILIES:
        raise MageKitError(f"family: '{family}'{nearest(family, FAMILIES)} (known: {', '.join(sorted(FAMILIES))})")
    return [_table(FAMILIES[name]) for name in ([family] if family else sorted(FAMILIES))]


def _table(registry: Registry[Any, Any]) -> Table:
    table = Table(
        Column("kind", no_wrap=True),
        Column("parameter", no_wrap=True),
        "type",
        "default",
        "what it is",
        title=registry.family,
        title_justify="left",
    )
    for entry in registry:
        table.add_row(Text(entry.kind, style="bold"), "", "", "", entry.summary)
        for row in _parameters(entry):
            table.add_row("", *row)
        table.add_section()
    return table


def _parameters(entry: Entry[Any]) -> list[tuple[str, str, str, str]]:
    schema = entry.config.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        if name != "kind":
            default = json.dumps(field["default"]) if "default" in field else "required"
            rows.append((name, _type(field, schema.get("$defs", {})), default, field.get("description", "")))
    return rows


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        return _type(definitions[field["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in field:
        return " or ".join(_type(option, definitions) for option in field["anyOf"])
    if "const" in field or "enum" in field:
        return " | ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    if "oneOf" in field:
        return str(field.get("description", "any")).removeprefix("One of the registered ").rstrip(".")
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[name]:g}" for name, sign in words.items() if name in field]
    return " ".join([str(field.get("type", "any")), ", ".join(bounds)]).strip()


def show_component(
    kind: str,
    settings: Sequence[str],
    tokens: int,
    steps: int,
    plugins: Sequence[str],
    out: Path | None,
    overwrite: bool,
) -> list[str]:
    """Return lines that picture mask ratios and schedules of a kind; optionally write a PNG of the first.

    Raises:
        MageKitError: If neither a mask ratio nor a schedule has that kind, or the file exists.
    """
    _import(plugins)
    if out is not None and out.suffix.lower() != ".png":
        raise MageKitError(f"out: '{out}', must be named .png")
    if out is not None and out.exists() and not overwrite:
        raise MageKitError(f"out: '{out}', exists; choose another or give --overwrite")
    families: list[Registry[Any, Any]] = [r for r in (MASK_RATIOS, SCHEDULES) if kind in r.kinds()]
    kinds = MASK_RATIOS.kinds() + SCHEDULES.kinds()
    if not families:
        raise MageKitError(
            f"kind: '{kind}'{nearest(kind, kinds)} (mask ratios and schedules: {', '.join(sorted(set(kinds)))})"
        )
    lines: list[str] = []
    has_plot = False
    for registry in families:
        component = _make(registry, kind, settings, strict=not lines and registry is families[-1])
        if component is None:
            continue
        names, values, title, labels = (
            _distribution(component, tokens) if isinstance(component, MaskRatio) else _counts(component, tokens, steps)
        )
        lines += [f"{registry.family}: {kind} {title}", *bars([name for name, _ in names], values), ""]
        if out is not None and not has_plot:
            has_plot = True
            plot_line([x for _, x in names], values, f"{kind} {title}", labels, out)
    return lines


_Shape = tuple[list[tuple[str, float]], list[float], str, tuple[str, str]]


def _distribution(ratio: MaskRatio, tokens: int) -> _Shape:
    draws = draw(ratio, _DRAWS, torch.Generator().manual_seed(0))
    counts = torch.histc(draws.float(), bins=_BINS, min=0.0, max=1.0) / _DRAWS
    masked = (draws * tokens).ceil()
    words = f"{masked.mean():.1f} masked on average, {masked.min():.0f} to {masked.max():.0f}"
    title = f"(drawn {_DRAWS} times; of {tokens} tokens {words})"
    names = [(f"{bin / _BINS:.2f}", (bin + 0.5) / _BINS) for bin in range(_BINS)]
    return names, [round(value, 4) for value in counts.tolist()], title, ("mask ratio", "share of draws")


def _counts(schedule: Schedule, tokens: int, steps: int) -> _Shape:
    counts = schedule.counts(tokens, steps)
    names = [(str(step), float(step)) for step in range(1, steps + 1)]
    return (
        names,
        [float(count) for count in counts],
        f"(of {tokens} tokens still masked after each of {steps} steps)",
        ("step", "masked tokens"),
    )


def _make(registry: Registry[Any, Any], kind: str, settings: Sequence[str], strict: bool) -> Any:
    """Build a component from name=value settings; without `strict` None where they do not fit."""
    data: dict[str, Any] = {"kind": kind}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise MageKitError(f"--set {setting}: must have the form parameter=value")
        try:
            data[name] = json.loads(text)
        except json.JSONDecodeError:
            data[name] = text
    try:
        return registry.build(registry.parse(data), NoWires())
    except ValidationError as error:
        if not strict:
            return None
        raise RecipeError(problems(error, registry.get(kind).config, data), kind) from None


def _import(plugins: Sequence[str]) -> None:
    with consent():  # named on the command line by whoever calls it
        errors = load_entry_points() + load_plugins(plugins)
    if errors:
        raise MageKitError("\n".join(errors))
