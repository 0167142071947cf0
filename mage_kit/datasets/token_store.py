"""Tokens on disk: what a cache holds, what it was made from, and which part of that differs from a recipe.

Folder: cache.json, tokenizer/, tokens-NNNNN.safetensors (each stream (n, K, F, L), with one
more dimension where a token is more than one number; index (n,), labels (n,)), broken.json.
Legend: n images of a shard, K crops, F 1 or 2 (as cropped, and mirrored), L tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from mage_kit.base.digests import arrays_digest
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.base.grid import TokenGrid, TokenSpec

CACHE_FILE = "cache.json"
VERSION = 3
NO_LABEL = -1
_NOTES = "mage_kit"  # the metadata entry of a token file
_SMALL = 32_767  # codes that fit into 16 bits with their sign


@dataclass(frozen=True)
class CacheCard:
    """What a cache is.

    Args:
        tokenizer: What the tokens were made with: kind, precision, and a SHA-256 of the weights.
        targets: The same of other tokenizers, by name.
        transform: How views were made: augmentation, crops, mirrored or not, seed, image size, channels.
        source: Identity of the images.
        classes: Class names; empty where the data has no labels.
        images: In the source, broken ones among them.
        shard: Images a file, at most.
        grid: Height and width in tokens.
        streams: What is held, by name: {"codes", "width", "factors"} of each.
    """

    tokenizer: dict[str, Any]
    targets: dict[str, dict[str, Any]]
    transform: dict[str, Any]
    source: dict[str, Any]
    classes: tuple[str, ...]
    images: int
    shard: int
    grid: tuple[int, int]
    streams: dict[str, dict[str, Any]]

    @property
    def files(self) -> int:
        """Number of token files."""
        return -(-self.images // self.shard)

    @property
    def crops(self) -> int:
        """K."""
        return int(self.transform["crops"])

    @property
    def mirrored(self) -> int:
        """F."""
        return 2 if self.transform["mirrored"] else 1

    def spec(self, stream: str) -> TokenSpec:
        """Return what a stream's tokens are."""
        return TokenSpec(TokenGrid(*self.grid), **self.streams[stream])

    def stored_kind(self, stream: str) -> Literal["int16", "int32", "float32"]:
        """Return the type that a stream's numbers are stored in: the smallest that holds its codes."""
        codes = self.streams[stream]["codes"]
        if codes is None:
            return "float32"
        return "int32" if codes > _SMALL else "int16"

    def fingerprint(self) -> dict[str, str]:
        """Return a short SHA-256 of each of the parts, and of how the files are laid out."""
        parts = {"tokenizer": self.tokenizer, "targets": self.targets, "transform": self.transform}
        parts["source"] = self.source
        names = ("classes", "images", "shard", "grid", "streams")
        parts["layout"] = {name: getattr(self, name) for name in names}
        return {name: _digest(part) for name, part in parts.items()}

    def as_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return {"version": VERSION, "fingerprint": self.fingerprint(), **asdict(self)}

    def differing(self, other: CacheCard) -> list[str]:
        """Return a line for each part in which another card differs, with the first keys that do."""
        lines = []
        for name in ("tokenizer", "targets", "streams", "transform", "source"):
            mine, theirs = (json.loads(json.dumps(getattr(card, name))) for card in (self, other))
            lines += [f"{name}: {line}" for line in differences(mine, theirs)]
        return lines


def differences(cache: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return a line for each key whose value differs; long values are told by their beginning."""
    keys = [key for key in dict.fromkeys((*cache, *here)) if cache.get(key) != here.get(key)]
    return [f"{key} is {_short(cache.get(key))} in the cache, {_short(here.get(key))} here" for key in keys]


def shard_file(folder: Path, number: int) -> Path:
    """Return the place of a token file."""
    return folder / f"tokens-{number:05d}.safetensors"


def places_digest(places: Mapping[str, NDArray[Any]], broken: Sequence[tuple[str, str]]) -> str:
    """Return a SHA-256 of where a token file's tokens belong, "index" and "labels", and of what was broken."""
    words = json.dumps([list(pair) for pair in broken])
    return hashlib.sha256(f"{arrays_digest(places)}\0{words}".encode()).hexdigest()


@dataclass(frozen=True)
class Notes:
    """What a token file says of itself.

    Args:
        tokens_sha256: Of its streams, which are read later than the rest.
        places_sha256: Of "index" and "labels", and of the list of broken images.
        broken: Images that could not be read: name and reason.
    """

    tokens_sha256: str
    places_sha256: str
    broken: list[tuple[str, str]]


def shard_notes(
    streams: Mapping[str, NDArray[Any]], places: Mapping[str, NDArray[Any]], broken: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Return a token file's metadata: digests of what it holds, and what was broken among its images.

    It is one entry: safetensors writes several in any order, and the same tokens are to give the same file.
    """
    notes = Notes(arrays_digest(streams), places_digest(places, broken), list(broken))
    return {_NOTES: json.dumps(asdict(notes))}


def read_notes(metadata: Mapping[str, str] | None) -> Notes:
    """Return what a token file says of itself.

    Raises:
        ValueError: If it says nothing, or is damaged.
    """
    try:
        notes = json.loads((metadata or {})[_NOTES])
        broken = [(str(name), str(reason)) for name, reason in notes["broken"]]
        return Notes(str(notes["tokens_sha256"]), str(notes["places_sha256"]), broken)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its notes are damaged: {error}") from None


def read_cache_card(folder: Path) -> CacheCard:
    """Read what a cache is.

    Raises:
        MageKitError: If the folder is no cache, a damaged one, or one of another version.
    """
    if not (folder / CACHE_FILE).is_file():
        raise MageKitError(f"path: '{folder}', must be a token cache (mage-kit tokenize writes one)")
    content = read_json(folder / CACHE_FILE)
    if content.get("version") != VERSION:
        raise MageKitError(f"path: '{folder}', is a cache of version {content.get('version')}, must be {VERSION}")
    try:
        values = {name: content[name] for name in CacheCard.__dataclass_fields__}
        card = CacheCard(**{**values, "classes": tuple(values["classes"]), "grid": tuple(values["grid"])})
        sound = card.fingerprint() == content["fingerprint"]
    except (KeyError, TypeError, ValueError) as error:
        raise MageKitError(f"{folder / CACHE_FILE}: damaged ({error})") from None
    if not sound:
        raise MageKitError(f"{folder / CACHE_FILE}: damaged, its fingerprint is not that of its content")
    return card


def _digest(part: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
