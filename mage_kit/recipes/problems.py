"""Pydantic's errors in this project's words: one line a problem, JSON path first, nearest known name last."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mage_kit.base.errors import json_path, nearest
from mage_kit.base.registry import Slot

_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "model_type": "an object",
    "dict_type": "an object",
}


def problems(error: ValidationError, root: type[BaseModel], data: Any) -> list[str]:
    """Return one line a problem.

    Args:
        error: What validation raised.
        root: The model that was validated against, to name what is known at a place.
        data: The JSON data that was validated.
    """
    return [f"{json_path(item['loc'])}: {_explain(item, root, data)}" for item in error.errors(include_url=False)]


def _explain(item: Any, root: type[BaseModel], data: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    value = _short(item["input"])
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        known = _known_at(root, data, item["loc"][:-1])
        return f"unknown{nearest(str(item['loc'][-1]), known)}" + (
            "" if nearest(str(item["loc"][-1]), known) else f" (known: {', '.join(known)})"
        )
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        form = "," if isinstance(context[name], int) else "g"
        return f"{value}, must be {words} {context[name]:{form}}"
    if kind in _TYPES:
        return f"{value}, must be {_TYPES[kind]}"
    if kind == "literal_error":
        return f"{value}, must be {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"{value}, must match {context['pattern']}"
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"{value}, must hold {bound}"
    if kind == "value_error":
        return str(context["error"])
    return str(item["msg"])


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_at(model: type[BaseModel] | None, data: Any, path: Iterable[str | int]) -> list[str]:
    """Names that the schema knows at a place of the data."""
    slot: Slot | None = None
    for part in path:
        data = data[part]
        if isinstance(part, int) or (slot is not None and model is None):  # one of a list, or of a mapping, of slots
            if slot is not None:
                model = slot.registry.config_of(data["kind"])
            continue
        assert model is not None
        field = model.model_fields[part]
        slot = _slot_in((field.annotation, *field.metadata))
        if slot is not None and isinstance(data, dict) and get_origin(field.annotation) is dict:
            model = None
        elif slot is not None and isinstance(data, dict):
            model = slot.registry.config_of(data["kind"])
        elif slot is None:
            model = next(
                (kind for kind in _flatten(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)),
                None,
            )
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _slot_in(items: Iterable[Any]) -> Slot | None:
    return next((part for item in items for part in _flatten(item) if isinstance(part, Slot)), None)


def _flatten(annotation: Any) -> list[Any]:
    """An annotation and all that stands inside it, `Annotated` metadata included."""
    metadata = list(getattr(annotation, "__metadata__", ()))
    return [
        annotation,
        *metadata,
        *(inner for argument in get_args(annotation) for inner in _flatten(argument)),
    ]


def plugin_hint(lines: Sequence[str], plugins: Sequence[str]) -> list[str]:
    """Return a line on plug-ins where a kind is unknown: what was loaded from where."""
    unknown = [line for line in lines if ".kind: unknown" in line]
    if not plugins:
        far = any("did you mean" not in line for line in unknown)
        return ["$.plugins: empty; where a plug-in brings that kind, name its module here"] if far else []
    if not unknown:
        return []
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in plugins if isinstance(name, str)}
    loaded = ", ".join(f"{name} from {file}" for name, file in files.items() if file) or "none"
    return [f"$.plugins: loaded {loaded}; none of them registers such a kind"]
