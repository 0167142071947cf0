"""What a component declares: its typed keyword-only signature becomes a strict pydantic model, its docstring the prose.

What stands before `*` in `__init__` is wired by the model; what stands after it is configuration, and `**shared` the
keywords of the class above.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from mage_kit.base.errors import RegistrationError

T = TypeVar("T")


class Strict(BaseModel):
    """Base of everything in a recipe: no unknown keys, no silent conversions, not changed once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ComponentConfig(Strict):
    """The recipe form of a component: its kind and its keywords."""

    kind: str

    def get(self, name: str) -> Any:
        """Return a keyword or slot field of the concrete component."""
        return getattr(self, name)


@dataclasses.dataclass(frozen=True)
class NoWires:
    """For families whose components need nothing from the model."""


@dataclasses.dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered component: its class, what is wired into it, its recipe schema, its first line of prose."""

    kind: str
    cls: type[T]
    wires: tuple[str, ...]
    config: type[ComponentConfig]
    summary: str


class Family(Protocol):
    """What reading a signature asks of its family."""

    family: str
    base: type[Any]
    wires: type[Any]
    slot_fields: dict[str, tuple[Any, Any]]
    reserved: frozenset[str]


def read_component(cls: type[Any], kind: str, registry: Family) -> Entry[Any]:
    """Turn a class into an entry, checking the whole contract."""
    where = f"{registry.family} '{kind}' ({cls.__qualname__})"
    if not issubclass(cls, registry.base):
        raise RegistrationError(f"{where}: must derive from {registry.base.__name__}")
    if abstract := sorted(getattr(cls, "__abstractmethods__", ())):
        raise RegistrationError(f"{where}: leaves {', '.join(abstract)} of {registry.base.__name__} unwritten")
    prose = _argument_prose(cls, registry.base)
    wires: list[str] = []
    fields: dict[str, Any] = {"kind": (Literal[kind], Field(description=f"Selects {cls.__name__}."))}
    for name, (parameter, hint) in _parameters(cls, registry.base, where).items():
        if hint is parameter.empty:
            raise RegistrationError(f"{where}: parameter '{name}' has no type")
        if parameter.kind is parameter.KEYWORD_ONLY:
            fields[name] = _field(where, name, hint, parameter, prose, registry)
        else:
            _check_wire(where, name, registry)
            wires.append(name)
    fields |= registry.slot_fields
    config = create_model(f"{cls.__name__}Config", __base__=ComponentConfig, **fields)
    config.__doc__ = summary = (inspect.getdoc(cls) or cls.__name__).strip().split("\n")[0]
    return Entry(kind, cls, tuple(wires), config, summary)


def _parameters(cls: type[Any], base: type[Any], where: str) -> dict[str, tuple[inspect.Parameter, Any]]:
    """Parameters of a component by name, with their types: its own, and where it takes `**` those it passes on.

    `**shared` stands for the keywords of the next class above it that has an `__init__`: they are written once, and a
    subclass may give one another default by naming it. Object's and torch's own `__init__` declare none.
    """
    owners = [part for part in cls.__mro__ if "__init__" in vars(part)]
    parameters: dict[str, tuple[inspect.Parameter, Any]] = {}
    for place, owner in enumerate(owners):
        if not issubclass(owner, base):
            break
        init = vars(owner)["__init__"]
        hints = get_type_hints(init, include_extras=True)
        own = list(inspect.signature(init).parameters.items())[1:]
        passes_on = any(parameter.kind is parameter.VAR_KEYWORD for _, parameter in own)
        above = owners[place + 1] if place + 1 < len(owners) else object
        hides = passes_on and not issubclass(above, base)
        if hides or any(parameter.kind is parameter.VAR_POSITIONAL for _, parameter in own):
            raise RegistrationError(f"{where}: *args and **kwargs hide the schema; name every parameter")
        mine = {
            name: (parameter, hints.get(name, parameter.empty))
            for name, parameter in own
            if parameter.kind is not parameter.VAR_KEYWORD and (not place or parameter.kind is parameter.KEYWORD_ONLY)
        }
        parameters = {**mine, **parameters}  # what all share comes first
        if not passes_on:
            break
    return parameters


def _check_wire(where: str, name: str, registry: Family) -> None:
    wires = [field.name for field in dataclasses.fields(registry.wires)]
    if name not in wires:
        raise RegistrationError(
            f"{where}: '{name}' stands before '*', but {registry.family} wire only {', '.join(wires) or 'nothing'}"
        )


def _field(
    where: str,
    name: str,
    hint: Any,
    parameter: inspect.Parameter,
    prose: dict[str, str] | None,
    registry: Family,
) -> tuple[Any, Any]:
    """The pydantic field of one keyword."""
    is_reserved = name in registry.slot_fields or name in registry.reserved
    if name == "kind" or is_reserved or hasattr(ComponentConfig, name) or name.startswith("_"):
        raise RegistrationError(f"{where}: parameter name '{name}' is reserved")
    if prose is not None and name not in prose:
        raise RegistrationError(f"{where}: parameter '{name}' has no line under 'Args:' in the class docstring")
    description = (prose or {}).get(name)
    if parameter.default is parameter.empty:
        return hint, Field(description=description)
    try:
        TypeAdapter(hint, config=None if _is_model(hint) else ConfigDict(strict=True)).validate_python(
            parameter.default
        )
    except ValidationError as error:
        rule = error.errors()[0]["msg"]
        raise RegistrationError(
            f"{where}: default of '{name}', {parameter.default!r}, breaks its own type: {rule}"
        ) from None
    return hint, Field(default=parameter.default, description=description)


def _is_model(hint: Any) -> bool:
    """True for a pydantic model or a union holding one: those carry their own strictness."""
    if get_origin(hint) is Annotated:
        return _is_model(get_args(hint)[0])
    parts = (hint, *get_args(hint))
    return any(isinstance(part, type) and issubclass(part, BaseModel) for part in parts)


def _argument_prose(cls: type[Any], base: type[Any]) -> dict[str, str] | None:
    """Lines of the Args sections by parameter, a class's own before those above it; None where docstrings are stripped
    (python -OO)."""
    if not cls.__doc__:
        return None if not __debug__ or __doc__ is None else {}
    prose: dict[str, str] = {}
    for part in reversed([part for part in cls.__mro__ if issubclass(part, base) and part.__doc__]):
        prose |= _argument_lines(inspect.cleandoc(part.__doc__ or ""))
    return prose


def _argument_lines(text: str) -> dict[str, str]:
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    prose: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines() if match else ():
        start = re.match(r"^ {4}(\w+)(?: \([^)]*\))?:\s*(.*)$", line)
        if start:
            name = start.group(1)
            prose[name] = start.group(2)
        elif name and line.strip():
            prose[name] += " " + line.strip()
    return prose
