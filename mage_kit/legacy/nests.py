"""Where the tensors of a PyTorch file stand: at its top, below a key, or below keys of keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.legacy.exposures import exposures
from mage_kit.legacy.wrappers import WRAPPERS

# Where training scripts put the weights, the best first: averaged ones before others.
_USUAL = (
    "ema", "model_ema", "state_dict_ema", "ema_state_dict", "params_ema", "model", "state_dict", "model_state_dict",
    "params", "module",
)  # fmt: skip
_DEEPEST = 3  # keys of keys of keys


def tensors_in(value: Any) -> dict[str, Tensor]:
    """Return the tensors that stand directly in a dictionary, by name."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name): item for name, item in value.items() if isinstance(item, Tensor)}


def nests(whole: Mapping[Any, Any], depth: int = 0) -> dict[str, dict[str, Tensor]]:
    """Return all dictionaries of tensors by the keys that lead to them, joined by dots; "" for the top."""
    own = tensors_in(whole)
    found = {"": own} if own else {}
    if depth < _DEEPEST:
        for key, value in whole.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                inner = nests(value, depth + 1)
                found |= {f"{key}.{below}" if below else key: tensors for below, tensors in inner.items()}
    return found


def choose_nest(path: Path, nested: Mapping[str, dict[str, Tensor]], weights: str | None) -> str:
    """Return the key below which a file's weights stand; "" for the top.

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
            names = ", ".join(keys) or "no key"
            raise MageKitError(f"weights: '{weights}'{nearest(weights, keys)}; {path} holds tensors under {names}")
        return weights
    usual = sorted((key for key in nested if _rank(key) < len(_USUAL)), key=lambda key: (_rank(key), key.count(".")))
    fitting = [key for key, tensors in nested.items() if exposures(_plain(tensors))]
    best = [key for key in usual if key in fitting] or [key for key in fitting if not key]
    if best:
        return best[0]
    if len(fitting) > 1 or (len(nested) > 1 and not fitting and not usual and "" not in nested):
        several = ", ".join(fitting or nested)
        raise MageKitError(f"{path}: holds tensors under {several}; choose one (--weights KEY, in Python weights=KEY)")
    if not nested:
        raise MageKitError(f"{path}: holds no tensors at the top, nor under {', '.join(_USUAL)} or any other key")
    return (fitting or usual or ([""] if "" in nested else list(nested)))[0]


def _rank(key: str) -> int:
    """How good a place is by its best key; the number of all where none of them is usual."""
    return min((_USUAL.index(word) for word in key.split(".") if word in _USUAL), default=len(_USUAL))


def _plain(names: Mapping[str, Tensor]) -> set[str]:
    """Names without wrappers' words, to look at."""
    return {".".join(word for word in name.split(".") if word not in WRAPPERS) for name in names}
