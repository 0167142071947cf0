"""A component is a plain class: its typed keyword-only signature is its recipe schema, and nothing else is written.

What stands before `*` in `__init__` is wired by the model; what stands after it is configuration. The registry
derives a strict pydantic model from the signature (types, bounds, defaults) and the class docstring (prose).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from pydantic import GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mage_kit.base.errors import MageKitError, RegistrationError, nearest
from mage_kit.base.signature import ComponentConfig, Entry, read_component

T = TypeVar("T")
W = TypeVar("W")
C = TypeVar("C", bound=type)


class Registry(Generic[T, W]):
    """The components of one family, by kind.

    Args:
        family: Name of the family, as its folder ("mask_ratios").
        base: Every component must derive from it.
        wires: Frozen dataclass of the values that the family can wire.
        reserved: Names that no keyword of a component may have.
        commands: Kinds that no component may have, since commands beside the family's have these names.
        slot_fields: Fields that belong to the slot of the recipe, not to the component (a loss's weight):
            name to (type, pydantic field).
    """

    def __init__(
        self,
        family: str,
        base: type[T],
        wires: type[W],
        slot_fields: Mapping[str, tuple[Any, Any]] | None = None,
        reserved: frozenset[str] = frozenset(),
        commands: frozenset[str] = frozenset(),
    ) -> None:
        self.family = family
        self.base = base
        self.wires = wires
        self.slot_fields = dict(slot_fields or {})
        self.reserved, self.commands = reserved, commands
        self._entries: dict[str, Entry[T]] = {}
        FAMILIES[family] = self

    def register(self, kind: str) -> Callable[[C], C]:
        """Class decorator: make the class available to recipes as `kind`.

        A class of the running script or notebook (`__main__`) may be registered again under its own name, as when a
        cell is run twice; the new one takes the place of the old.

        Raises:
            RegistrationError: If the kind is taken or the class breaks the contract; raised at once.
        """

        def decorate(cls: C) -> C:
            owner = self._entries[kind].cls if kind in self._entries else None
            if owner is not None and not _is_written_again(owner, cls):
                raise RegistrationError(f"{self.family}: kind '{kind}' is taken by {owner.__qualname__}")
            if kind in self.commands:
                raise RegistrationError(f"{self.family}: kind '{kind}' names something else on the command line")
            if any(entry.cls is cls for entry in self._entries.values()):
                raise RegistrationError(f"{self.family}: {cls.__qualname__} is registered already under another kind")
            self._entries[kind] = read_component(cls, kind, self)
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
            kinds = ", ".join(self.kinds())
            raise MageKitError(f"unknown '{kind}'{nearest(kind, self._entries)} ({self.family}: {kinds})")
        return self._entries[kind]

    def config_of(self, kind: str) -> type[ComponentConfig]:
        """Return the recipe schema of a kind."""
        return self.get(kind).config

    def parse(self, value: Mapping[str, Any]) -> ComponentConfig:
        """Validate a mapping with a `kind` against that component's schema."""
        kind = value.get("kind")
        if not isinstance(kind, str):
            raise MageKitError(f"kind: {kind!r}, must be one of {', '.join(self.kinds())}")
        return self.get(kind).config.model_validate_json(json.dumps(value))

    def build(self, config: ComponentConfig, wires: W) -> T:
        """Make the component that a validated config describes, with the values wired into it."""
        entry = self.get(config.kind)
        arguments = [getattr(wires, name) for name in entry.wires]
        component = entry.cls(*arguments, **{name: getattr(config, name) for name in self.parameters(entry)})
        absent = [name for name in self.parameters(entry) if not hasattr(component, name)]
        if absent:
            raise MageKitError(
                f"{entry.cls.__name__} keeps no attribute '{absent[0]}'; its recipe could not be written"
            )
        return component

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

    def changed(self, component: T, **changes: Any) -> T:
        """Return a component like another that needs no wires, with other keywords.

        Args:
            component: Of a registered class.
            changes: Keywords, and their values as in a recipe.

        Raises:
            MageKitError: If the class is not registered.
            ValidationError: If a keyword is unknown or out of its range.
        """
        return self.build(self.parse({**self.describe(component), **changes}), self.wires())

    def slot(self) -> Slot:
        """Return the annotation for a recipe field that holds one component of this family."""
        return Slot(self)


FAMILIES: dict[str, Registry[Any, Any]] = {}
"""Every family, by name; filled as the families are imported."""


class Kinds(Protocol):
    """What a slot asks: a family of components, or a closed list of sections."""

    @property
    def family(self) -> str:
        """Name, for errors."""
        ...

    def kinds(self) -> list[str]:
        """Return the kinds, sorted."""
        ...

    def config_of(self, kind: str) -> type[ComponentConfig]:
        """Return the schema of a kind."""
        ...

    def parse(self, value: Mapping[str, Any]) -> ComponentConfig:
        """Validate a mapping with a known kind."""
        ...


def _is_written_again(old: type, new: type) -> bool:
    """Whether both are one class of a notebook, whose cell was run once more."""
    return {old.__module__, new.__module__} == {"__main__"} and old.__qualname__ == new.__qualname__


class Slot:
    """Pydantic annotation of a component field. The kind is looked up live, so later registrations count.

    Args:
        kinds: A family, or its name where the family lies above the recipe (tasks); it is found when it is asked for.
    """

    def __init__(self, kinds: Kinds | str) -> None:
        self._kinds = kinds

    @property
    def registry(self) -> Kinds:
        """The family."""
        return FAMILIES[self._kinds] if isinstance(self._kinds, str) else self._kinds

    def validate(self, value: Any) -> ComponentConfig:
        """Validate a config, or the mapping it is written as; errors keep their place inside the component."""
        if isinstance(value, ComponentConfig):
            return value
        kinds = ", ".join(self.registry.kinds())
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "component_type",
                "{value}, must be an object with a 'kind' ({family}: {known})",
                {"value": json.dumps(value), "family": self.registry.family, "known": kinds},
            )
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in self.registry.kinds():
            raise ValidationError.from_exception_data(
                "kind", [{"type": self._kind_error(kind, "kind" in value), "loc": ("kind",), "input": kind}]
            )
        return self.registry.parse(value)

    def _kind_error(self, kind: Any, is_there: bool) -> PydanticCustomError:
        family, kinds = self.registry.family, self.registry.kinds()
        if not is_there:
            text = f"missing, one of: {', '.join(kinds)}"
        else:
            hint = nearest(kind, kinds) if isinstance(kind, str) else ""
            text = f"unknown {json.dumps(kind)}{hint} ({family}: {', '.join(kinds)})"
        return PydanticCustomError("component_kind", "{text}", {"text": text})

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda config: config.model_dump(mode="json")
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        forms = [handler(self.registry.config_of(kind).__pydantic_core_schema__) for kind in self.registry.kinds()]
        return {
            "oneOf": forms,
            "description": f"One of the registered {self.registry.family.replace('_', ' ')}.",
        }
