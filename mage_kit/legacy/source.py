"""A checkpoint file as named tensors, whatever its format; recognised by its bytes, not by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mage_kit.errors import MageKitError
from mage_kit.files import read_tensors
from mage_kit.legacy.flax import flatten, read_flax
from mage_kit.legacy.pickles import read_pickle

_CONTAINERS = ("ema", "model_ema", "model", "state_dict")  # where training scripts put the weights, the best first
_WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Args:
        path: The file.
        format: "pytorch", "safetensors" or "flax".
        container: Key under which the weights stood, or "".
        tensors: By published name.
        beside: Keys of the file that are no weights.
        sha256: Of the file.
    """

    path: Path
    format: str
    container: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...]
    sha256: str


def read_source(path: Path) -> Source:
    """Read a checkpoint.

    Raises:
        MageKitError: If the file is missing, damaged, of no known format, or wants to run code.
    """
    kind = _format(path)
    if kind == "safetensors":
        return Source(path, kind, "", read_tensors(path), (), file_sha256(path))
    if kind == "flax":
        flat = flatten(read_flax(path))
        tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
        return Source(path, kind, "", tensors, tuple(sorted(flat.keys() - tensors.keys())), file_sha256(path))
    whole = read_pickle(path)
    if not isinstance(whole, Mapping):
        raise MageKitError(f"{path}: holds a {type(whole).__name__}, must be a dictionary of tensors")
    container = next((key for key in _CONTAINERS if _has_tensors(whole.get(key))), "")
    weights = whole[container] if container else whole
    tensors = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise MageKitError(f"{path}: holds no tensors under any of {', '.join(_CONTAINERS)}, nor at the top")
    beside = tuple(str(key) for key in whole if key != container and str(key) not in tensors)
    return Source(path, kind, container, _unwrapped(tensors), beside, file_sha256(path))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _format(path: Path) -> str:
    if path.is_dir():
        raise MageKitError(f"{path}: is a folder, must be a checkpoint file")
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
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return "flax"
    what = "is empty" if not head else "is a web page: the download failed" if head.lstrip()[:1] == b"<" else ""
    known = "a PyTorch, safetensors or flax (msgpack) checkpoint"
    raise MageKitError(f"{path}: {what or 'is in no known format'}, must be {known}")


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what a wrapper put before all of them."""
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            return _unwrapped({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors
