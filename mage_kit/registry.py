"""A component is a plain class: its typed keyword-only signature is its recipe schema, and nothing else is written.

What stands before `*` in `__init__` is wired by the model; what stands after it is configuration. The registry
derives a strict pydantic model from the signature (types, bounds, defaults) and the class docstring (prose).
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mage_kit.errors import MageKitError, RegistrationError, nearest

T = TypeVar("T")
W = TypeVar("W")
C = TypeVar("C", bound=type)


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


class Registry(Generic[T, W]):
    """The components of one family, by kind.

    Args:
        family: Name of the family, as its folder ("mask_ratios").
        base: Every component must derive from it.
        wires: Frozen dataclass of the values that the family can wire.
        slot_fields: Fields that belong to the slot of the recipe, not to the component (a loss's weight):
            name to (type, pydantic field).
    """

    def __init__(
        self,
        family: str,
        base: type[T],
        wires: type[W],
        slot_fields: Mapping[str, tuple[Any, Any]] | None = None,
    ) -> None:
        self.family = family
        self.base = base
        self.wires = wires
        self.slot_fields = dict(slot_fields or {})
        self._entries: dict[str, Entry[T]] = {}
        FAMILIES[family] = self

    def register(self, kind: str) -> Callable[[C], C]:
        """Class decorator: make the class available to recipes as `kind`.

        Raises:
            RegistrationError: If the kind is taken or the class breaks the contract; raised at once.
        """

        def decorate(cls: C) -> C:
            if kind in self._entries:
                raise RegistrationError(
                    f"{self.family}: kind '{kind}' is taken by {self._entries[kind].cls.__qualname__}"
                )
            if any(entry.cls is cls for entry in self._entries.values()):
                raise RegistrationError(f"{self.family}: {cls.__qualname__} is registered already under another kind")
            self._entries[kind] = _read(cls, kind, self)
            return cls

        return decorate

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.kind))

    def kinds(self) -> list[str]:
        """Return the registered kinds, sorted."""
        return sorted(self._entries)

    def get(self, kind: str) -> Entry[T]:
        """Return the entry of a kind.

        Raises:
            MageKitError: If no component of that kind is registered; names the nearest one.
        """
        if kind not in self._entries:
            known = ", ".join(self.kinds())
            raise MageKitError(f"unknown '{kind}'{nearest(kind, self._entries)} ({self.family}: {known})")
        return self._entries[kind]

    def parse(self, value: Mapping[str, Any]) -> ComponentConfig:
        """Validate a mapping with a `kind` against that component's schema."""
        kind = value.get("kind")
        if not isinstance(kind, str):
            raise MageKitError(f"kind: {kind!r}, must be one of {', '.join(self.kinds())}")
        return self.get(kind).config.model_validate_json(json.dumps(value))

    def build(self, config: ComponentConfig, wires: W) -> T:
        """Make the component that a validated config describes, with the values wired into it."""
        entry = self.get(config.kind)
        wired = [getattr(wires, name) for name in entry.wires]
        made = entry.cls(*wired, **{name: getattr(config, name) for name in self.parameters(entry)})
        lost = [name for name in self.parameters(entry) if not hasattr(made, name)]
        if lost:
            raise MageKitError(f"{entry.cls.__name__} keeps no attribute '{lost[0]}'; its recipe could not be written")
        return made

    def parameters(self, entry: Entry[T]) -> list[str]:
        """Return the names of a component's keywords, without kind and slot fields."""
        return [name for name in entry.config.model_fields if name != "kind" and name not in self.slot_fields]

    def entry_of(self, component: T) -> Entry[T]:
        """Return the entry under which an object's class is registered.

        Raises:
            MageKitError: If the class is not registered, so that no recipe could name it.
        """
        for entry in self._entries.values():
            if entry.cls is type(component):
                return entry
        raise MageKitError(
            f"{type(component).__name__}: not registered in {self.family}, a recipe could not name it; "
            f'add @{self.family.upper()}.register("...") to the class'
        )

    def describe(self, component: T, **slot_values: Any) -> dict[str, Any]:
        """Return the recipe form of a component made in Python: kind and keywords, as JSON values."""
        entry = self.entry_of(component)
        values = {name: getattr(component, name) for name in self.parameters(entry)}
        config = entry.config(kind=entry.kind, **values, **slot_values)
        return config.model_dump(mode="json")

    def slot(self) -> Slot:
        """Return the annotation for a recipe field that holds one component of this family."""
        return Slot(self)


FAMILIES: dict[str, Registry[Any, Any]] = {}
"""Every family, by name; filled as the families are imported."""


class Slot:
    """Pydantic annotation of a component field. The kind is looked up live, so later registrations count."""

    def __init__(self, registry: Registry[Any, Any]) -> None:
        self.registry = registry

    def validate(self, value: Any) -> ComponentConfig:
        """Validate a config, or the mapping it is written as; errors keep their place inside the component."""
        if isinstance(value, ComponentConfig):
            return value
        known = ", ".join(self.registry.kinds())
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "component_type",
                "{value}, must be an object with a 'kind' ({family}: {known})",
                {"value": json.dumps(value), "family": self.registry.family, "known": known},
            )
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in self.registry.kinds():
            raise ValidationError.from_exception_data(
                "kind", [{"type": self._kind_error(kind, "kind" in value), "loc": ("kind",), "input": kind}]
            )
        return self.registry.parse(value)

    def _kind_error(self, kind: Any, given: bool) -> PydanticCustomError:
        family, known = self.registry.family, self.registry.kinds()
        if not given:
            text = f"missing, one of: {', '.join(known)}"
        else:
            hint = nearest(kind, known) if isinstance(kind, str) else ""
            text = f"unknown {json.dumps(kind)}{hint} ({family}: {', '.join(known)})"
        return PydanticCustomError("component_kind", "{text}", {"text": text})

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda config: config.model_dump(mode="json")
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        forms = [handler(entry.config.__pydantic_core_schema__) for entry in self.registry]
        return {
            "oneOf": forms,
            "description": f"One of the registered {self.registry.family.replace('_', ' ')}.",
        }


def _read(cls: type[Any], kind: str, registry: Registry[Any, Any]) -> Entry[Any]:
    """Turn a class into an entry, checking the whole contract."""
    where = f"{registry.family} '{kind}' ({cls.__qualname__})"
    if not issubclass(cls, registry.base):
        raise RegistrationError(f"{where}: must derive from {registry.base.__name__}")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise RegistrationError(f"{where}: leaves {', '.join(missing)} of {registry.base.__name__} unwritten")
    own = _has_own_init(cls, registry.base)
    hints = get_type_hints(cls.__init__, include_extras=True) if own else {}
    prose = _argument_prose(cls)
    wires: list[str] = []
    fields: dict[str, Any] = {"kind": (Literal[kind], Field(description=f"Selects {cls.__name__}."))}
    parameters = list(inspect.signature(cls.__init__).parameters.items())[1:] if own else []
    for name, parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise RegistrationError(f"{where}: *args and **kwargs hide the schema; name every parameter")
        if name not in hints:
            raise RegistrationError(f"{where}: parameter '{name}' has no type")
        if parameter.kind is parameter.KEYWORD_ONLY:
            fields[name] = _field(where, name, hints[name], parameter, prose, registry)
        else:
            _check_wire(where, name, registry)
            wires.append(name)
    fields |= registry.slot_fields
    config = create_model(f"{cls.__name__}Config", __base__=ComponentConfig, **fields)
    config.__doc__ = summary = (inspect.getdoc(cls) or cls.__name__).strip().split("\n")[0]
    return Entry(kind, cls, tuple(wires), config, summary)


def _has_own_init(cls: type[Any], base: type[Any]) -> bool:
    """True if `__init__` comes from the family; object's and torch's own declare no parameters."""
    owner = next(part for part in cls.__mro__ if "__init__" in vars(part))
    return issubclass(owner, base)


def _check_wire(where: str, name: str, registry: Registry[Any, Any]) -> None:
    known = [field.name for field in dataclasses.fields(registry.wires)]
    if name not in known:
        raise RegistrationError(
            f"{where}: '{name}' stands before '*', but {registry.family} wire only {', '.join(known) or 'nothing'}"
        )


def _field(
    where: str,
    name: str,
    hint: Any,
    parameter: inspect.Parameter,
    prose: dict[str, str] | None,
    registry: Registry[Any, Any],
) -> tuple[Any, Any]:
    """The pydantic field of one keyword."""
    if name == "kind" or name in registry.slot_fields or hasattr(ComponentConfig, name) or name.startswith("_"):
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


def _argument_prose(cls: type[Any]) -> dict[str, str] | None:
    """Lines of the docstring's Args section by parameter; None where docstrings are stripped (python -OO)."""
    text = inspect.getdoc(cls) if cls.__doc__ else None
    if text is None:
        return None if not __debug__ or __doc__ is None else {}
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
    if match is None:
        return {}
    prose: dict[str, str] = {}
    name = ""
    for line in match.group(1).splitlines():
        start = re.match(r"^ {4}(\w+)(?: \([^)]*\))?:\s*(.*)$", line)
        if start:
            name = start.group(1)
            prose[name] = start.group(2)
        elif name and line.strip():
            prose[name] += " " + line.strip()
    return prose
