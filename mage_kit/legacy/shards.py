"""Weights in several safetensors files, and the index that says which tensor lies in which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_tensors
from mage_kit.base.json_text import parse_json

INDEX = ".safetensors.index.json"
_SUFFIX = ".safetensors"
_SHOWN = 5  # names in a message


def read_shards(index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """Return all tensors of the files that an index names, and the files, the index first.

    Args:
        index: NAME.safetensors.index.json; its files lie beside it.

    Raises:
        MageKitError: If the index is none, a file or a tensor is missing or one too many, or a file lies elsewhere.
    """
    places = _weight_map(index)
    names = sorted(set(places.values()))
    stem = index.name.removesuffix(INDEX)
    present = {path.name for path in index.parent.glob(f"{_escaped(stem)}-*{_SUFFIX}")}
    _refuse(index, "there is no file", [name for name in names if not (index.parent / name).is_file()])
    _refuse(index, "not named by the index lies beside it", sorted(present - set(names)))
    tensors: dict[str, Tensor] = {}
    for name in names:
        content = read_tensors(index.parent / name)
        own = {tensor for tensor, shard in places.items() if shard == name}
        _refuse(index, f"{name} lacks", sorted(own - content.keys()))
        twice = sorted(content.keys() & (places.keys() - own))
        _refuse(index, f"{name} holds what the index has elsewhere:", twice)
        _refuse(index, f"{name} holds what the index does not name:", sorted(content.keys() - own))
        tensors |= content
    return tensors, [index, *(index.parent / name for name in names)]


def _weight_map(index: Path) -> Mapping[str, str]:
    """The file of each tensor."""
    try:
        content = parse_json(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MageKitError(f"{index}: cannot be read ({error})") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise MageKitError(f"{index}: must hold 'weight_map', the file of each tensor")
    foreign = sorted({name for name in places.values() if not _is_beside(name)})
    _refuse(index, "files must lie beside it and end in .safetensors, not", [repr(name) for name in foreign])
    return places


def _is_beside(name: str) -> bool:
    """Whether a name is a file's own, without any folder, on whatever system."""
    return name.endswith(_SUFFIX) and name.isprintable() and not set(name) & set("/\\:\0") and not name.startswith(".")


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _refuse(index: Path, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise MageKitError(f"{index}: {what} {', '.join(names[:_SHOWN])}{more}")
