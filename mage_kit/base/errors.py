"""Errors that name the place: a JSON path of the recipe, the value found there, and the rule it breaks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class MageKitError(ValueError):
    """Anything that a user can cause and can mend. The command line prints it and exits with 2."""


class TrainingStopped(Exception):  # no error: a run was told to stop
    """A run was told to stop and has saved where it is; nothing is wrong with it.

    Args:
        message: What stopped it, where it stands, and how to go on.
    """


class RegistrationError(MageKitError):
    """A component's declaration breaks the contract; raised at the decorator's line."""


class RecipeError(MageKitError):
    """A recipe that does not hold; carries every problem found, one a line.

    Args:
        problems: One message a problem, each starting with the JSON path.
        source: The recipe's file or name, for the first line.
    """

    def __init__(self, problems: Sequence[str], source: str = "recipe") -> None:
        self.problems, self.source = tuple(problems), source
        count = len(self.problems)
        head = f"{source}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *self.problems]))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[Sequence[str], str]]:
        return type(self), (self.problems, self.source)


class PartsError(MageKitError):
    """Two parts of a model that do not fit each other.

    Args:
        parts: Names of the slots concerned, as in the recipe's model section (``mask_ratio``, ``drop``).
        message: What they demand of one another.
    """

    def __init__(self, parts: Sequence[str], message: str) -> None:
        self.parts = tuple(parts)
        self.message = message
        super().__init__(f"{' and '.join(self.parts)}: {message}")

    def __reduce__(self) -> tuple[type[PartsError], tuple[Sequence[str], str]]:
        return type(self), (self.parts, self.message)  # as in BrokenImageError


class OtherTrainingError(MageKitError):
    """A sound checkpoint of another training: nothing is damaged, and nothing is passed over."""


class BrokenImageError(MageKitError):
    """An image that cannot be used; a data set's engine passes over it and lists it.

    Args:
        name: The file, or the member of a tar file.
        reason: What is wrong with it, one line.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"image: '{name}', cannot be decoded ({reason})")

    def __reduce__(self) -> tuple[type[BrokenImageError], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # a worker sends it to the training process


class MissingExtraError(MageKitError):
    """An optional dependency is not installed.

    Args:
        what: The thing that needs it.
        extra: The extra of this package that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        self.what, self.extra = what, extra
        super().__init__(f"{what} needs the extra '{extra}': pip install 'mage-kit[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.what, self.extra)


def json_path(parts: Iterable[str | int]) -> str:
    """Write a location as a JSON path: ``("losses", 1, "weight")`` gives ``$.losses[1].weight``."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f", did you mean '{match[0]}'?" if match else ""


def misfits(needs: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return a line for each kind of misfit between tensors by name and shape, five names a line; none if they fit."""
    absent, unexpected = sorted(needs.keys() - shapes.keys()), sorted(shapes.keys() - needs.keys())
    misshaped = [
        f"{name} {shapes[name]} for {shape}"
        for name, shape in sorted(needs.items())
        if shapes.get(name, shape) != shape
    ]
    groups = {
        "missing": [name + nearest(name, unexpected) for name in absent[:5]] + absent[5:],
        "unexpected": unexpected,
        "of another shape": misshaped,
    }
    return [
        f"  {len(lines)} {what}: {'; '.join(lines[:5])}{' ...' if len(lines) > 5 else ''}"
        for what, lines in groups.items()
        if lines
    ]
