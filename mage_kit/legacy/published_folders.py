"""Folders of weights that other programs write: diffusers' autoencoders, and sharded safetensors.

A diffusers folder holds config.json beside diffusion_pytorch_model.safetensors; a pipeline has it one folder below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.json_text import parse_json
from mage_kit.legacy.shards import INDEX

CONFIG = "config.json"
_STEM = "diffusion_pytorch_model"
_ENDINGS = (".safetensors", INDEX, ".bin")
_PARTS = ("vqvae", "vae")  # of a pipeline
_OURS = ("recipe.json", "tokenizer.json")


@dataclass(frozen=True)
class Located:
    """Where weights lie.

    Args:
        file: Their file, or the index of several.
        settings: What diffusers' config.json states; empty where there is none.
    """

    file: Path
    settings: dict[str, Any] = field(default_factory=dict)


def is_weight_folder(path: Path) -> bool:
    """Whether a place is a folder of another program's weights, and none of this one's."""
    if not path.is_dir() or any((path / name).is_file() for name in _OURS):
        return False
    return bool(_homes(path) or _indices(path))


def locate(path: Path) -> Located:
    """Return the weights' file in a folder, or the file itself, with the settings beside it.

    Raises:
        MageKitError: If a folder holds no weights of a known form, or several.
    """
    if not path.is_dir():
        beside = path.parent / CONFIG
        return Located(path, _settings(beside) if path.name.startswith(_STEM) and beside.is_file() else {})
    homes, indices = _homes(path), _indices(path)
    if len(homes) > 1 or (not homes and len(indices) > 1):
        names = ", ".join(str(place.relative_to(path)) for place in homes or indices)
        raise MageKitError(f"{path}: holds several sets of weights ({names}); give one of them")
    if homes:
        return Located(_weights(homes[0]), _settings(homes[0] / CONFIG))
    if indices:
        return Located(indices[0])
    raise MageKitError(
        f"{path}: is a folder without {CONFIG} and {_STEM}.safetensors (diffusers), or a *{INDEX}; "
        "must be one of these, or a checkpoint file"
    )


def _homes(path: Path) -> list[Path]:
    places = (path, *(path / part for part in _PARTS))
    return [place for place in places if (place / CONFIG).is_file() and any(place.glob(f"{_STEM}*"))]


def _indices(path: Path) -> list[Path]:
    return sorted(path.glob(f"*{INDEX}"))


def _weights(home: Path) -> Path:
    """The plain file before a variant's, as .fp16.safetensors."""
    for ending in _ENDINGS:
        if (home / f"{_STEM}{ending}").is_file():
            return home / f"{_STEM}{ending}"
    variants = sorted(place for place in home.glob(f"{_STEM}.*") if place.name.endswith(_ENDINGS))
    if len(variants) != 1:
        names = ", ".join(place.name for place in variants) or "none"
        raise MageKitError(f"{home}: {_STEM}.safetensors is missing, and of its variants ({names}) none stands alone")
    return variants[0]


def _settings(config: Path) -> dict[str, Any]:
    try:
        content = parse_json(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MageKitError(f"{config}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise MageKitError(f"{config}: must hold a JSON object")
    return content
