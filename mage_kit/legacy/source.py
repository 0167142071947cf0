"""Checkpoints as named tensors, whatever their format; files are recognised by their bytes, not by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_tensors
from mage_kit.legacy.exposures import Exposure, expose
from mage_kit.legacy.flax import read_flax
from mage_kit.legacy.layout import Layout
from mage_kit.legacy.nests import Nest, choose_nest, list_keys, nests, tensors_in
from mage_kit.legacy.pickles import read_pickle
from mage_kit.legacy.published_folders import locate
from mage_kit.legacy.renames import invert
from mage_kit.legacy.shards import INDEX, read_shards
from mage_kit.legacy.wrappers import WRAPPERS, without_wrappers

_LONGEST_NAME = 300


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Args:
        path: The file, or the index of several.
        format: "pytorch", "safetensors" or "flax".
        container: Key under which the weights stood, or "".
        rivals: Keys of other weights of a known layout, which were not read though nobody chose.
        prefix: What stood before all names, or "".
        layout: What the names look like, or None.
        tensors: By published name.
        beside: Keys of the file that are no weights, or other weights.
        outside: Names of tensors that the prefix leaves out.
        hashes: SHA-256 of each file by its name.
        settings: What a file beside the weights states.
    """

    path: Path
    format: str
    container: str
    rivals: tuple[str, ...]
    prefix: str
    layout: Layout | None
    tensors: dict[str, Tensor]
    beside: tuple[str, ...]
    outside: tuple[str, ...]
    hashes: dict[str, str]
    settings: Mapping[str, Any]

    @property
    def container_note(self) -> str:
        """Which of several weights are read, in a line; nothing where there was no choice, or somebody made it."""
        if not self.rivals:
            return ""
        where = f"the key '{self.container}'" if self.container else "no key"
        return (
            f"{self.path.name}: the weights under {where} are read, not those under {list_keys(self.rivals)} "
            "(--weights KEY chooses, in Python weights=KEY)"
        )

    @property
    def prefix_note(self) -> str:
        """What of the names is read, in a line; nothing where all of them are."""
        if not self.prefix or self.layout is None:
            return ""
        count = len(self.outside)
        rest = f"; {count:,} other tensor{'s are' if count > 1 else ' is'} not read" if count else ""
        return f"{self.path.name}: {self.layout.title}, from below the prefix '{self.prefix}'{rest}"


def read_source(path: Path, weights: str | None = None, prefix: str | None = None, layout: str | None = None) -> Source:
    """Read a checkpoint.

    Args:
        path: The file, the index of several, or a folder that diffusers wrote.
        weights: Key of a PyTorch file under which the weights stand; None: averaged ones before others, of those that
            look like a known layout.
        prefix: What stands before the names of the weights; None: whatever a known layout stands below.
        layout: The layout asked for, which chooses between several.

    Raises:
        MageKitError: If the file is missing, damaged, of no known format, wants to run code, or several prefixes hold
            known layouts.
    """
    place = locate(path)
    kind, whole, files = _content(place.file)
    if kind == "pytorch":
        nested = nests(place.file, whole)
        nest = choose_nest(place.file, nested, weights)
        tensors = nested[nest.key]
        beside = tuple(str(key) for key in whole if not _is_within(nest.key, str(key)) and str(key) not in tensors)
    else:
        if weights is not None:
            raise MageKitError(
                f"weights: '{weights}', given, but {place.file} is a {kind} file, which has no such keys"
            )
        nest, tensors = Nest(""), tensors_in(whole)
        if not tensors:
            raise MageKitError(f"{place.file}: holds no tensors")
        beside = tuple(sorted(whole.keys() - tensors.keys()))
    for name, tensor in tensors.items():
        _check_plain(place.file, name, tensor)
    plain = without_wrappers(place.file, tensors)
    bare = None if prefix is None else ".".join(word for word in prefix.split(".") if word not in WRAPPERS)
    view = expose(place.file, plain.keys(), bare, layout)
    return Source(
        path=place.file,
        format=kind,
        container=nest.key,
        rivals=nest.others,
        prefix=view.prefix,
        layout=view.layout,
        tensors={own: plain[name] for own, name in _own_names(place.file, view).items()},
        beside=beside,
        outside=tuple(sorted(plain.keys() - view.names.keys())),
        hashes={file.name: file_sha256(file) for file in files},
        settings=place.settings,
    )


def _own_names(path: Path, view: Exposure) -> dict[str, str]:
    """The file's name of each tensor, by what the layout calls it today."""
    if view.layout is None:
        return invert(path, view.names, "below one prefix")
    today = {name: view.layout.today(own) for name, own in view.names.items()}
    return invert(path, today, f"under the names that {view.layout.title} has today")


def _is_within(place: str, key: str) -> bool:
    """Whether keys joined by dots start with one of the file's."""
    return place == key or place.startswith(f"{key}.")


def _content(path: Path) -> tuple[str, Mapping[Any, Any], list[Path]]:
    """Format, content and files."""
    if path.name.endswith(INDEX):
        tensors, files = read_shards(path)
        return "safetensors", tensors, files
    kind = _format(path)
    if kind == "pytorch":
        whole = read_pickle(path)
        if not isinstance(whole, Mapping):
            raise MageKitError(f"{path}: holds one object, must be a dictionary of tensors")
        return kind, whole, [path]
    return kind, read_flax(path) if kind == "flax" else read_tensors(path), [path]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _format(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise MageKitError(f"{path}: is no regular file, must be a checkpoint file")
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


def _check_plain(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse what is no ordinary array of numbers, and shapes that claim more than the file holds."""
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise MageKitError(f"{path}: holds a tensor called {name[:80]!r}, names must be short and printable")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise MageKitError(f"{path}: {name} is no plain tensor ({tensor.layout}, {tensor.dtype}), must be dense")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise MageKitError(f"{path}: {name} claims {tuple(tensor.shape)}, more values than the file holds for it")
