"""Where the tensors of a PyTorch file stand: at its top, below a key, or below keys of keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.legacy.exposures import has_layout
from mage_kit.legacy.wrappers import bare_name

# Where training scripts put the weights, the best first: averaged ones before others.
_USUAL = (
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "model", "state_dict", "model_state_dict",
    "params", "module",
)  # fmt: skip
_DEEPEST = 3  # keys of keys of keys
_SHOWN = 5  # keys in a message

Nests = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Nest:
    """A place in a file that weights are read from.

    Args:
        key: The keys that lead there, joined by dots; "" for the top.
        others: Keys of other weights of a known layout, between which nobody chose.
    """

    key: str
    others: tuple[str, ...] = ()


def tensors_in(value: Any) -> dict[str, Tensor]:
    """Return the tensors that stand directly in a dictionary, by name."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): item for name, item in value.items() if isinstance(item, Tensor)}


def nests(path: Path, whole: Mapping[Any, Any], depth: int = 0) -> Nests:
    """Return all dictionaries of tensors by the keys that lead to them, joined by dots; "" for the top.

    Raises:
        MageKitError: If two have one name, because a key has a dot itself.
    """
    own = tensors_in(whole)
    places = {"": own} if own else {}
    if depth < _DEEPEST:
        for key, value in whole.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                for below, tensors in nests(path, value, depth + 1).items():
                    place = f"{key}.{below}" if below else key
                    if place in places:
                        raise MageKitError(f"{path}: holds tensors under '{place}' twice: one key has a dot itself")
                    places[place] = tensors
    return places


def choose_nest(path: Path, nested: Nests, weights: str | None) -> Nest:
    """Return where a file's weights stand.

    Args:
        path: The file, for errors.
        nested: Its dictionaries of tensors.
        weights: The key asked for.

    Raises:
        MageKitError: If there is no such key, none at all, or several that nothing chooses between.
    """
    if weights is not None:
        if weights not in nested or not weights:
            keys = [key for key in nested if key]
            names = list_keys(keys) or "no key"
            raise MageKitError(f"weights: '{weights}'{nearest(weights, keys)}; {path} holds tensors under {names}")
        return Nest(weights)
    usual = sorted((key for key in nested if _rank(key)[0] < len(_USUAL)), key=_rank)
    fitting = [key for key, tensors in nested.items() if has_layout(path, [bare_name(name) for name in tensors])]
    best = [key for key in usual if key in fitting] or [key for key in fitting if not key]
    if best:
        _refuse_several(path, [key for key in best if _rank(key) == _rank(best[0])])
        return Nest(best[0], tuple(key for key in fitting if key != best[0]))
    _refuse_several(path, fitting)
    if not fitting and not usual and "" not in nested:
        _refuse_several(path, nested)
    if not nested:
        raise MageKitError(f"{path}: holds no tensors at the top, nor under {', '.join(_USUAL)} or any other key")
    return Nest((fitting or usual or ([""] if "" in nested else list(nested)))[0])


def _refuse_several(path: Path, keys: Collection[str]) -> None:
    if len(keys) > 1:
        raise MageKitError(
            f"{path}: holds tensors under {list_keys(keys)}; choose one (--weights KEY, in Python weights=KEY)"
        )


def list_keys(keys: Collection[str]) -> str:
    """Return a message's words for some keys."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(key or "no key" for key in list(keys)[:_SHOWN]) + more


def _rank(key: str) -> tuple[int, int]:
    """How good a place is, the least the best: by its best key, then by its depth."""
    return min((_USUAL.index(word) for word in key.split(".") if word in _USUAL), default=len(_USUAL)), key.count(".")
