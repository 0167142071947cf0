"""Where the pictures of a tar file lie: read from its headers once, then kept in the user's cache folder.

An index is that of one file and of the rules by which its members became samples: with other rules it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mage_kit.base.files import atomic
from mage_kit.base.package_files import cache_folder
from mage_kit.datasets.packed_names import PackedNames
from mage_kit.datasets.passed_over import UNREAD, kinds_of, suffix_reason
from mage_kit.datasets.tar_labels import NO_LABEL
from mage_kit.datasets.tar_members import CUT, LINK, SPARSE, Members, plain, read_members
from mage_kit.datasets.tar_samples import ARCHIVE, DUPLICATE, UNWANTED, SampleRules, group

_VERSION = 2
_FOLDERS = 1000  # names that are kept: so many classes need no proof
_LOSSES = frozenset({UNWANTED, UNREAD, ARCHIVE})
_DAMAGES = frozenset({CUT, LINK, SPARSE, DUPLICATE})  # of whatever a member is


@dataclass(frozen=True)
class TarFacts:
    """What is said of a tar file beside where its pictures lie; plain values, ready for JSON.

    Args:
        texts: All labels as they are written, each once.
        passed_over: [name, reason] of members that are left out.
        lost: How many of them look like images, by kind, and as many more as lie beyond a damage.
        counts: How many members there are of each kind, those that are passed over among them.
        extensions: How many samples have members of each extension beside the picture.
        folders: Names of the folders that pictures lie in, some of them.
        several: Samples that hold several pictures, though no rule prefers one.
        example: One of these: its key and the extensions.
    """

    texts: list[str]
    passed_over: list[list[str]]
    lost: dict[str, int]
    counts: dict[str, int]
    extensions: dict[str, int]
    folders: list[str]
    several: int = 0
    example: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TarIndex:
    """The pictures of one tar file.

    Args:
        names: Of their members.
        offsets_I: Where each one's bytes start, int64.
        sizes_I: How many there are, int64.
        labels_I: Place of each one's label among the texts of `facts`, int64; NO_LABEL where a sample has none.
        facts: What else there is.
    """

    names: PackedNames
    offsets_I: NDArray[np.int64]
    sizes_I: NDArray[np.int64]
    labels_I: NDArray[np.int64]
    facts: TarFacts


def tar_index(path: Path, rules: SampleRules) -> TarIndex:
    """Return a tar file's index, from the cache where neither the file nor the rules have changed since.

    Raises:
        MageKitError: If it is no plain tar file.
    """
    place = _place(path, rules)
    with contextlib.suppress(Exception):  # damaged in whatever way: it is scanned again
        return _read(place)
    index = _scan(path, rules)
    with contextlib.suppress(OSError):  # no room in the cache: it is scanned again next time
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(place, index)
    return index


def _place(path: Path, rules: SampleRules) -> Path:
    """The cache's file for a tar file: by path, size and time of change, and the rules."""
    stat = path.stat()
    text = f"{_VERSION}\0{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{rules!r}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder("tar_index") / f"{digest}.npz"


def _scan(path: Path, rules: SampleRules) -> TarIndex:
    members = read_members(path)
    with path.open("rb") as raw:
        samples = group(members, raw, rules)
    passed_over = [[f"{path}/{name}", reason] for name, reason in samples.passed_over]
    counts = samples.counts + Counter(reason for _, reason in samples.passed_over)
    lost = kinds_of((name, reason) for name, reason in passed_over if _is_loss(name, reason))
    if members.damage:
        beyond = _beyond(path, members, len(samples.pictures))
        reason = f"{members.damage}; {beyond} or so images are lost beyond it"
        lost[f"{path.name}, {reason}"] += beyond
        passed_over.append([str(path), reason])
    texts = sorted({label for label in samples.labels if label})
    numbers = {text: number for number, text in enumerate(texts)}
    folders = sorted({posixpath.dirname(plain(member.name)) for member in samples.pictures})[:_FOLDERS]
    return TarIndex(
        PackedNames(member.name for member in samples.pictures),
        _numbers([member.offset for member in samples.pictures]),
        _numbers([member.size for member in samples.pictures]),
        _numbers([numbers.get(label, NO_LABEL) for label in samples.labels]),
        TarFacts(
            texts,
            passed_over,
            dict(lost),
            dict(counts),
            dict(samples.extensions),
            folders,
            samples.several,
            list(samples.example),
        ),
    )


def _numbers(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _is_loss(name: str, reason: str) -> bool:
    """Whether an image is lost with a member that is passed over, as far as its name tells."""
    return reason in _LOSSES or (reason in _DAMAGES and suffix_reason(name) in (None, UNREAD))


def _beyond(path: Path, members: Members, pictures: int) -> int:
    """As many images as would fill the rest of the file, at least one: how many they were is nowhere left."""
    rest = max(0, path.stat().st_size - members.end)
    return max(1, round(rest * pictures / members.end)) if members.end else 1


def _write(place: Path, index: TarIndex) -> None:
    facts = {each.name: getattr(index.facts, each.name) for each in fields(TarFacts)}
    arrays: dict[str, Any] = {"offsets": index.offsets_I, "sizes": index.sizes_I, "labels": index.labels_I}
    arrays |= index.names.arrays("names")
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    with atomic(place) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _read(place: Path) -> TarIndex:
    with np.load(place, allow_pickle=False) as arrays:
        names = PackedNames.of_arrays(arrays, "names")
        facts = TarFacts(**json.loads(arrays["facts"].tobytes()))
        return TarIndex(names, arrays["offsets"], arrays["sizes"], arrays["labels"], facts)
