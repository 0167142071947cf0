"""A checkpoint file as named tensors, whatever its format; recognised by its bytes, not by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError, nearest
from mage_kit.base.files import read_tensors
from mage_kit.legacy.flax import read_flax
from mage_kit.legacy.layouts import recognise
from mage_kit.legacy.pickles import read_pickle

# Where training scripts put the weights, the best first.
_CONTAINERS = ("ema", "model_ema", "state_dict_ema", "model", "state_dict")
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # what DataParallel, torch.compile and Lightning put before every name

_LONGEST_NAME = 300


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Args:
        path: The file.
        format: "pytorch", "safetensors" or "flax".
        container: Key under which the weights stood, or "".
        tensors: By published name.
        beside: Keys of the file that are no weights, or other weights.
        sha256: Of the file.
    """

    path: Path
    format: str
    container: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...]
    sha256: str


def read_source(path: Path, weights: str | None = None) -> Source:
    """Read a checkpoint.

    Args:
        path: The file.
        weights: Key of a PyTorch file under which the weights stand; None: averaged ones before others, of those that
            look like a known layout.

    Raises:
        MageKitError: If the file is missing, damaged, of no known format, or wants to run code.
    """
    kind = _format(path)
    if kind == "pytorch":
        whole = read_pickle(path)
        if not isinstance(whole, Mapping):
            raise MageKitError(f"{path}: holds one object, must be a dictionary of tensors")
        container = _container(path, whole, weights)
        tensors = _tensors(whole[container] if container else whole)
        beside = tuple(str(key) for key in whole if key != container and str(key) not in tensors)
    else:
        if weights is not None:
            raise MageKitError(f"weights: '{weights}', given, but {path} is a {kind} file, which has no such keys")
        flat = read_flax(path) if kind == "flax" else read_tensors(path)
        container, tensors = "", _tensors(flat)
        if not tensors:
            raise MageKitError(f"{path}: holds no tensors")
        beside = tuple(sorted(flat.keys() - tensors.keys()))
    for name, tensor in tensors.items():
        _check_plain(path, name, tensor)
    return Source(path, kind, container, _unwrap(tensors), beside, file_sha256(path))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _format(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise MageKitError(
            f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, must be a checkpoint file"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise MageKitError(f"{path}: cannot be read ({error.strerror})") from None
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        return "pytorch"
    if len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "safetensors"
    if len(head) > 1 and (head[0] in (0xDE, 0xDF) or (0x81 <= head[0] <= 0x8F and head[1] >= 0xA0)):  # a map of strings
        return "flax"
    what = "is empty" if not head else "is a web page: the download failed" if head.lstrip()[:1] == b"<" else ""
    formats = "a PyTorch, safetensors or flax (msgpack) checkpoint"
    raise MageKitError(f"{path}: {what or 'is in no known format, or its first bytes are damaged'}, must be {formats}")


def _container(path: Path, whole: Mapping[Any, Any], weights: str | None) -> str:
    """Key of the weights; "" where they stand at the top."""
    keys = [key for key in whole if isinstance(key, str) and _tensors(whole[key])]
    if weights is not None:
        if weights not in keys:
            names = ", ".join(keys) or "no key"
            raise MageKitError(f"weights: '{weights}'{nearest(weights, keys)}; {path} holds tensors under {names}")
        return weights
    usual = [key for key in _CONTAINERS if key in keys]
    fitting = [key for key in usual if recognise(_unwrap(_tensors(whole[key]))) is not None]
    if fitting or usual:
        return (fitting or usual)[0]
    if not _tensors(whole):
        where = f"but under {', '.join(keys)} (--weights KEY)" if keys else "nor anywhere else"
        raise MageKitError(f"{path}: holds no tensors under {', '.join(_CONTAINERS)}, nor at the top, {where}")
    return ""


def _tensors(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): item for name, item in value.items() if isinstance(item, Tensor)}


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what is no ordinary array of numbers, and shapes that claim more than the file holds."""
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise MageKitError(f"{path}: holds a tensor called {name[:80]!r}, names must be short and printable")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise MageKitError(f"{path}: {name} is no plain tensor ({tensor.layout}, {tensor.dtype}), must be dense")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise MageKitError(f"{path}: {name} claims {tuple(tensor.shape)}, more values than the file holds for it")


def _unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what a wrapper put before all of them."""
    for prefix in _WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrap({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors
