"""Flax's msgpack files, read and written with `msgpack` alone: nested maps whose leaves are arrays.

An array is extension type 1; its bytes are msgpack again: [shape, dtype name, raw little-endian bytes in C order].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError, MissingExtraError

_ARRAY = 1
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}


def read_flax(path: Path) -> dict[str, Any]:
    """Read a file as tensors, names of nested maps joined by slashes.

    Raises:
        MissingExtraError: Without `msgpack`.
        MageKitError: If the file is damaged or holds something else than maps and arrays.
    """
    try:
        import msgpack
    except ImportError:
        raise MissingExtraError("reading a flax checkpoint", "convert") from None
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array, raw=False, strict_map_key=True)
        flat = _flatten(tree) if isinstance(tree, dict) else {}
    except MageKitError as error:
        raise MageKitError(f"{path}: {error}") from None
    except Exception as error:  # msgpack raises many kinds for damaged files
        raise MageKitError(
            f"{path}: damaged, or no flax checkpoint ({type(error).__name__}: {str(error)[:120]})"
        ) from None
    return flat


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested maps as one, names joined by slashes."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}/"))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _array(code: int, data: bytes) -> Tensor:
    import msgpack

    if code != _ARRAY:
        raise MageKitError(f"holds a value of extension type {code}; only arrays (type {_ARRAY}) are read")
    shape, name, raw = msgpack.unpackb(data, raw=False)
    if name not in _DTYPES:
        raise MageKitError(f"holds an array of type {name!r}, must be one of {', '.join(_DTYPES)}")
    dtype = _DTYPES[name]
    if any(not isinstance(size, int) or size < 0 for size in shape) or len(raw) != math.prod(shape) * dtype.itemsize:
        raise MageKitError(f"holds an array of shape {shape} in {len(raw)} bytes of {name}; they do not fit")
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
