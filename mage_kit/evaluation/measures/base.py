"""What a measure is: one way to say how good a run is; a family, open to plug-ins.

The command line, the report and the table of results know measures from the registry alone: `mage-kit eval KIND RUN`
writes RUN/eval/KIND.json, which names its measure, and whoever shows it asks that measure what the numbers in it are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.registry import Registry
from mage_kit.base.signature import NoWires
from mage_kit.evaluation.measures.request import SHARED, Request
from mage_kit.planning.passes import Passes

if TYPE_CHECKING:
    from mage_kit.models.mage import Mage
    from mage_kit.recipes import Recipe


@dataclass(frozen=True)
class Figure:
    """One number of a result.

    Args:
        of: What it is of, as "raw pixels".
        name: What it is, as "top1".
        value: The number.
        std: Its deviation, where it is a mean.
        about: What the result says of this row in particular, as "data".
    """

    of: str
    name: str
    value: float
    std: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curves:
    """A result as a plot.

    Args:
        title: Of the plot.
        across: What the horizontal axis is.
        points: (x, top-1, deviation) by name.
    """

    title: str
    across: str
    points: Mapping[str, list[tuple[float, float, float]]]


@dataclass(frozen=True)
class Outcome:
    """What a measure leaves.

    Args:
        result: Ready for JSON: "protocol" says how it was measured, "rows" holds {of: {name: number}}; a number that is
            a mean is {"mean": number, "std": deviation}. A measure with rows of another form says what they are in
            `figures`.
        picture: Written beside it.
    """

    result: dict[str, Any]
    picture: Image.Image | None = None


KINDS = ("mage", "classifier", "tokenizer")
_FORMS: tuple[tuple[str, Any, str], ...] = (
    ("takes", frozenset | set, "a set of names"),
    ("shown", tuple | list, "a tuple of names"),
    ("flags", Mapping, "names of options by keyword"),
    ("title", str, "text"),
    ("file", str, "text"),
    ("caption", str, "text"),
    ("revision", int, "a whole number"),
)


class Measure(ABC):
    """One way of measuring. Its keywords are its options, in Python and on the command line.

    What is said of a result is said by the class: whoever reads it from a file does not know the options it ran with,
    but those that stand in it.

    Attributes:
        title: Heading in tables and reports.
        needs: What it measures: a masked model, a classifier, or a tokenizer alone or within either; the command
            line and `mk.evaluate` refuse folders of another kind.
        takes: Which of the options that measures share it follows, see `Request`; "file" if it measures checkpoint
            files too.
        file: Name of its result; "" for its kind.
        flags: Options that are called otherwise on the command line, by keyword, as {"labels": "--class"}.
        shown: Names of the numbers in its rows that are its figures; none for all of them.
        revision: Raised when the same options come to give other numbers: figures of an older one are not taken again.
        caption: What its picture shows; "" if it leaves none but a plot of its curves.
    """

    title: ClassVar[str] = ""
    needs: ClassVar[Literal["mage", "classifier", "tokenizer"]] = "mage"
    takes: ClassVar[frozenset[str]] = frozenset({"data", "weights", "seed"})
    file: ClassVar[str] = ""
    flags: ClassVar[Mapping[str, str]] = {}
    shown: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1
    caption: ClassVar[str] = ""

    def __init_subclass__(cls, **words: Any) -> None:
        """Refuse what could not be shown.

        Raises:
            MageKitError: If `takes` names an option that measures do not share, or an attribute is of another form.
        """
        super().__init_subclass__(**words)
        for name, kinds, rule in _FORMS:
            if not isinstance(getattr(cls, name), kinds):
                raise MageKitError(f"{cls.__qualname__}.{name}: {getattr(cls, name)!r}, must be {rule}")
        if unknown := sorted(set(cls.takes) - SHARED):
            raise MageKitError(f"{cls.__qualname__}.takes: '{unknown[0]}', must be among {', '.join(sorted(SHARED))}")
        if cls.needs not in KINDS:
            raise MageKitError(f"{cls.__qualname__}.needs: {cls.needs!r}, must be one of {', '.join(KINDS)}")

    @classmethod
    def fits(cls, model: Mage) -> bool:
        """Return whether a masked model has what is measured; whoever measures many runs leaves the others out."""
        return True

    def check(self, request: Request) -> None:  # noqa: B027  # most have nothing to say before they begin
        """Raise MageKitError for what is wrong before anything is opened."""

    @abstractmethod
    def run(self, request: Request) -> Outcome:
        """Measure; in several processes at once where it takes "processes", whose first one's result counts.

        Raises:
            MageKitError: If there is nothing to measure, or it does not fit.
        """

    @classmethod
    def heading(cls, result: Mapping[str, Any]) -> str:
        """Return the title of a result's table."""
        return cls.title

    @classmethod
    def note(cls, result: Mapping[str, Any]) -> str:
        """Return what it was measured by, in a line: what speaks against it first."""
        return "; ".join(str(result[name]) for name in ("name", "protocol") if result.get(name))

    @classmethod
    def figures(cls, result: Mapping[str, Any]) -> list[Figure]:
        """Return every number of a result."""
        return [each for each in plain_figures(result["rows"]) if not cls.shown or each.name in cls.shown]

    @classmethod
    def curves(cls, result: Mapping[str, Any]) -> Curves | None:
        """Return a result as a plot; None where it has none."""
        return None

    @classmethod
    def paper(cls, figure: Figure, result: Mapping[str, Any], recipe: Recipe | None) -> tuple[float | None, str]:
        """Return the paper's number beside one of a result, if its data and protocol are the paper's, and a word on it.

        Args:
            figure: Of the result.
            result: As `run` left it.
            recipe: Of the run; None where there is none.
        """
        return None, "no figure of the paper's is of this protocol"

    def passes(self, train: int, test: int) -> Passes:
        """Return how many images go through which parts, for `mage-kit plan`.

        Args:
            train: Labelled images to learn from.
            test: Images to test on.
        """
        return Passes()


def number_text(value: float, std: float | None = None) -> str:
    """Return a number and its deviation with the digits that they have."""
    digits = f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.4g}"
    return digits if std is None else f"{digits} ± {number_text(std)}"


def plain_figures(rows: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the numbers of rows {of: {name: number, or mean and std}}; a "std" beside "top1" is that one's."""
    for of, row in rows.items():
        for name, value in row.items():
            if isinstance(value, Mapping) and "mean" in value:
                yield Figure(of, name, float(value["mean"]), value.get("std"), row)
            elif isinstance(value, int | float) and not isinstance(value, bool) and name != "std":
                yield Figure(of, name, float(value), row.get("std") if name == "top1" else None, row)


_DECODING = ("preset", "steps", "schedule", "selection", "temperature", "top_k", "top_p", "guidance")
_RESERVED = frozenset(
    {*Request.__dataclass_fields__, "out", "as_json", "bf16", "plugin", *_DECODING}
)  # of every command
MEASURES: Registry[Measure, NoWires] = Registry(
    "measures", Measure, NoWires, reserved=_RESERVED, commands=frozenset({"reference"})
)
