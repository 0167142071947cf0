"""The component contract: a plain class is the whole declaration, and a wrong one is refused at its own line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field, ValidationError

import mage_kit as mk
from mage_kit.base.registry import FAMILIES, Registry


class Part:
    """Base of the test's family."""


@dataclass(frozen=True)
class Wires:
    width: int


@pytest.fixture
def parts() -> Iterator[Registry[Part, Wires]]:
    yield Registry("parts", Part, Wires)
    del FAMILIES["parts"]


def test_a_signature_is_the_schema(parts: Registry[Part, Wires]) -> None:
    @parts.register("one")
    class One(Part):
        """First line.

        Args:
            size: How large,
                in pixels.
            names: Labels (any number).
        """

        def __init__(
            self, width: int, *, size: Annotated[int, Field(ge=1)] = 3, names: tuple[str, ...] = ("a",)
        ) -> None:
            self.width, self.size, self.names = width, size, names

    entry = parts.get("one")
    assert entry.wires == ("width",) and entry.summary == "First line."
    schema = entry.config.model_json_schema()["properties"]
    assert schema["size"]["description"] == "How large, in pixels."
    assert schema["size"]["minimum"] == 1 and schema["size"]["default"] == 3
    made = parts.build(parts.parse({"kind": "one", "names": ["x", "y"]}), Wires(7))
    assert isinstance(made, One)
    assert (made.width, made.size, made.names) == (7, 3, ("x", "y"))
    assert parts.describe(made) == {"kind": "one", "size": 3, "names": ["x", "y"]}
    for bad in ({"size": 0}, {"size": "3"}, {"size": 3.0}, {"size": True}, {"sise": 3}):
        with pytest.raises(ValidationError):
            parts.parse({"kind": "one", **bad})


def _class(body: str, doc: str = "Doc.\n\nArgs:\n    size: x.") -> type[Any]:
    space: dict[str, Any] = {"Part": Part, "Annotated": Annotated, "Field": Field}
    exec(f"class C(Part):\n    {doc!r}\n    def __init__(self, {body}): pass\n", space)
    made: type[Any] = space["C"]
    return made


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("*, size=3", "parameter 'size' has no type"),
        ("*, size: int = 3, other: int = 1", "parameter 'other' has no line under 'Args:'"),
        ("**size: int", "name every parameter"),
        ("*size: int", "name every parameter"),
        ("*, kind: int = 1", "parameter name 'kind' is reserved"),
        ("*, model_dump: int = 1", "parameter name 'model_dump' is reserved"),
        ("*, size: Annotated[int, Field(ge=1)] = 0", "default of 'size', 0, breaks its own type"),
        ("*, size: int = 1.5", "default of 'size', 1.5, breaks its own type"),
        ("height: int, *, size: int = 1", "'height' stands before '*', but parts wire only width"),
    ],
)
def test_a_wrong_declaration_is_refused_at_once(parts: Registry[Part, Wires], body: str, message: str) -> None:
    with pytest.raises(mk.RegistrationError, match=message.replace("*", r"\*")):
        parts.register("wrong")(_class(body))
    assert parts.kinds() == []


def test_duplicates_foreigners_and_abstract_classes_are_refused(parts: Registry[Part, Wires]) -> None:
    first = parts.register("one")(_class("*, size: int = 1"))
    with pytest.raises(mk.RegistrationError, match="kind 'one' is taken by C"):
        parts.register("one")(_class("*, size: int = 1"))
    with pytest.raises(mk.RegistrationError, match="registered already"):
        parts.register("two")(first)
    with pytest.raises(mk.RegistrationError, match="must derive from Part"):
        parts.register("three")(int)
    with pytest.raises(mk.RegistrationError, match="leaves sample of MaskRatio unwritten"):

        @mk.MASK_RATIOS.register("unfinished")
        class Unfinished(mk.MaskRatio):
            """No sample."""

    with pytest.raises(mk.RegistrationError, match="'weight' is reserved"):

        @mk.LOSSES.register("heavy")
        class Heavy(mk.MaskedMSE):
            """A loss that takes its slot's field.

            Args:
                weight: Not its own.
            """

            def __init__(self, *, weight: float = 1.0) -> None: ...


def test_a_class_of_a_notebook_takes_its_own_place_and_no_others(parts: Registry[Part, Wires]) -> None:
    """As when a cell is run a second time."""
    first, second, other = (_class("*, size: int = 1") for _ in range(3))
    for cls in (first, second, other):
        cls.__module__ = "__main__"
    other.__qualname__ = "Other"
    parts.register("one")(first)
    parts.register("one")(second)
    assert parts.get("one").cls is second and parts.kinds() == ["one"]
    with pytest.raises(mk.RegistrationError, match="kind 'one' is taken by C"):
        parts.register("one")(other)
    second.__module__ = "elsewhere"
    with pytest.raises(mk.RegistrationError, match="kind 'one' is taken by C"):
        parts.register("one")(first)


def test_the_nearest_kind_is_named() -> None:
    with pytest.raises(mk.MageKitError, match="unknown 'cosin', did you mean 'cosine'"):
        mk.SCHEDULES.get("cosin")


def test_an_unregistered_class_cannot_be_written() -> None:
    class Mine(mk.UniformRatio):
        pass

    with pytest.raises(mk.MageKitError, match="Mine: not registered in mask_ratios"):
        mk.MASK_RATIOS.describe(Mine())
