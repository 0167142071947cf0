"""A pickle of numpy arrays, read without running anything else: any other name in it is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.errors import MageKitError

_ARRAYS = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_REBUILDS = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}


class _Arrays(pickle.Unpickler):
    """Makes arrays, lists, tuples, dictionaries and plain values."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return _ARRAYS[module, name]
        if (module, name) in _REBUILDS:
            return np.ndarray((0,)).__reduce__()[0]  # numpy's own, wherever this version keeps it
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def read_arrays(path: Path) -> dict[str, list[NDArray[Any]]]:
    """Return lists of arrays by name.

    Raises:
        MageKitError: If it is damaged, or holds anything but numbers in arrays.
    """
    try:
        with path.open("rb") as file:
            content = _Arrays(file).load()
    except Exception as error:  # whatever a damaged pickle raises
        raise MageKitError(f"perceptual: '{path}', must be a pickle of numpy arrays alone ({error})") from None
    if not isinstance(content, dict):
        raise MageKitError(f"perceptual: '{path}', must be arrays by name, is a {type(content).__name__}")
    arrays = {name: list(parts) for name, parts in content.items() if isinstance(parts, list | tuple)}
    for name, parts in arrays.items():
        if not all(isinstance(part, np.ndarray) and part.dtype.kind == "f" for part in parts):
            raise MageKitError(f"perceptual: '{path}', '{name}' must be arrays of floating numbers")
    return arrays
