"""Where in a recipe a value stands that does not hold: errors of building, with the JSON path of their part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from mage_kit.base.errors import PartsError, RecipeError
from mage_kit.base.registry import Registry
from mage_kit.base.signature import ComponentConfig, Strict

T = TypeVar("T")
W = TypeVar("W")


@contextlib.contextmanager
def at(path: str, config: Strict | None = None) -> Iterator[None]:
    """Say where in the recipe a value that does not hold stands; `config` tells which names are keywords there."""
    try:
        yield
    except PartsError as error:
        raise RecipeError([f"{' and '.join(place_of(part) for part in error.parts)}: {error.message}"]) from None
    except RecipeError:
        raise
    except ValueError as error:
        keyword = str(error).partition(":")[0]
        inside = config is not None and keyword in type(config).model_fields
        raise RecipeError([f"{path}.{error}" if inside else f"{path}: {error}"]) from None
    except (RuntimeError, TypeError, OverflowError) as error:
        if "overflow" not in str(error).lower():  # torch's words for a size that no integer of its own holds
            raise
        raise RecipeError([f"{path}: of sizes that no memory holds"]) from None


def place_of(part: str) -> str:
    """JSON path of a part that the model names."""
    return "$.tokenizer" if part == "tokenizer" else f"$.model.{part}"


class Collected:
    """Gathers the problems of several parts, so that one message holds them all."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def attempt(self, path: str, config: ComponentConfig | None, make: Callable[[], T]) -> T | None:
        """Return what `make` makes, or None and keep the problem."""
        try:
            with at(path, config):
                return make()
        except RecipeError as error:
            self.problems += error.problems
            return None

    def build(self, path: str, registry: Registry[T, W], config: ComponentConfig, wires: W) -> T | None:
        """Build one part; see `attempt`."""
        return self.attempt(path, config, lambda: registry.build(config, wires))

    def raise_if_any(self, source: str) -> None:
        """Raise RecipeError with all problems kept."""
        if self.problems:
            raise RecipeError(self.problems, source)
