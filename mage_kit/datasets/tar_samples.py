"""Members of a tar file put together to samples, in webdataset's way: a picture, its label, and what else there is.

A member's key is its path up to the first dot of its name, its extension all that follows, in lower case.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

from mage_kit.datasets.passed_over import HIDDEN, NO_IMAGE, is_junk, suffix_reason
from mage_kit.datasets.tar_labels import label_extension, label_text
from mage_kit.datasets.tar_members import Member, Members, plain

DUPLICATE = "the key and extension of another member"
UNWANTED = "its sample holds no picture that data.picture names"
PICTURES, ARCHIVE = "pictures", "an archive inside the tar file, which is not opened"
_ARCHIVES = frozenset({"tar", "tgz", "gz", "bz2", "xz", "zst", "zip", "7z"})
Keys = Literal["first_dot", "last_dot"]


@dataclass(frozen=True)
class SampleRules:
    """How members become samples.

    Args:
        keys: Whether a key ends at the first or at the last dot of a member's name.
        picture: Extensions of the picture, the preferred one first; None for the only one that there is.
        label: "folder", "none", "json:KEY", or an extension.
    """

    keys: Keys
    picture: tuple[str, ...] | None
    label: str


@dataclass
class Samples:
    """Pictures and their labels.

    Args:
        pictures: One of each sample.
        labels: As they are written; "" where there is none.
        passed_over: (name, reason) of members that are no part of a sample, or cannot be read.
        counts: How many members need no name each, by what they are.
        extensions: How many samples have members of each extension beside the picture.
        several: Samples that hold several pictures, though none is preferred.
        example: One of these: its key and the extensions.
    """

    pictures: list[Member] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    extensions: Counter[str] = field(default_factory=Counter)
    several: int = 0
    example: tuple[str, ...] = ()


def split_name(name: str, keys: Keys) -> tuple[str, str]:
    """Return key and extension: "a/b.left.JPG" is "a/b" and "left.jpg", or "a/b.left" and "jpg"."""
    folder, slash, file = plain(name).rpartition("/")
    stem, _, extension = file.partition(".") if keys == "first_dot" or "." not in file else file.rpartition(".")
    return folder + slash + stem, extension.lower()


def group(members: Members, raw: BinaryIO, rules: SampleRules) -> Samples:
    """Put members together.

    Args:
        members: Of a tar file.
        raw: The file, open.
        rules: How.
    """
    samples = Samples(passed_over=list(members.passed_over), counts=Counter(members.counts))
    for key, parts in _by_key(members, samples, rules.keys).items():
        pictures = [extension for extension in parts if suffix_reason(f"picture.{extension}") is None]
        if not pictures:
            samples.passed_over += [(member.name, _reason(extension)) for extension, member in parts.items()]
            continue
        picture = _choose(pictures, rules.picture)
        if picture is None:
            samples.passed_over.append((parts[pictures[0]].name, UNWANTED))
            _count_rest(samples, set(parts) - {pictures[0]}, "")
            continue
        if len(pictures) > 1 and rules.picture is None:
            samples.several += 1
            samples.example = samples.example or (key, *pictures)
        label = label_text(raw, parts[picture], parts, rules.label)
        samples.pictures.append(parts[picture])
        samples.labels.append(label)
        samples.extensions.update(extension for extension in parts if extension != picture)
        source = label_extension(rules.label)
        useful = {picture} if source is None or not label else {picture, source}
        _count_rest(samples, set(parts) - useful, source or "")
        samples.counts.update([PICTURES, *(f"labels (.{extension})" for extension in useful - {picture})])
    return samples


def _by_key(members: Members, samples: Samples, keys: Keys) -> Mapping[str, dict[str, Member]]:
    by_key: defaultdict[str, dict[str, Member]] = defaultdict(dict)
    for member in members.files:
        key, extension = split_name(member.name, keys)
        if any(is_junk(part) for part in plain(member.name).split("/")):
            samples.passed_over.append((member.name, HIDDEN))
        elif extension in by_key[key]:
            samples.passed_over.append((member.name, DUPLICATE))
        else:
            by_key[key][extension] = member
    return by_key


def _choose(pictures: list[str], preferred: tuple[str, ...] | None) -> str | None:
    if preferred is None:
        return pictures[0]
    return next((extension for extension in preferred if extension in pictures), None)


def _reason(extension: str) -> str:
    last = extension.rpartition(".")[2]
    return ARCHIVE if last in _ARCHIVES else suffix_reason(f"picture.{last}") or NO_IMAGE


def _count_rest(samples: Samples, extensions: set[str], source: str) -> None:
    """Count what of a sample is of no use."""
    for extension in extensions:
        last = extension.rpartition(".")[2]
        if suffix_reason(f"picture.{last}") is None:
            words = f"pictures beside the chosen one (.{last})"
        else:
            words = f"labels that cannot be read (.{last})" if extension == source else f"other parts (.{last})"
        samples.counts[words] += 1
