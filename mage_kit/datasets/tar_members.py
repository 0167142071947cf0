"""Every member of a tar file, from its headers: what can be read where it lies, and what cannot, and why.

Links are followed to members of the same file, and nowhere else.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.datasets.tar_headers import (
    FILE,
    FOLDER,
    HARD_LINK,
    SPARSE_FILE,
    SYMBOLIC_LINK,
    DamageError,
    Header,
    read_header,
)

CUT = "the tar file ends inside it"
LINK = "a link to no file of the same tar file, or a loop of links"
SPARSE = "a sparse member, whose bytes do not lie in one piece"
DEVICE = "a device, a pipe, or of a type that tar files do not have"
FOLDERS = "folders"
MOST = 50_000_000  # members of one tar file, which is some 10 GB of memory here; all of ImageNet has 29 million
_LINKS = 40  # one after another


@dataclass(frozen=True, slots=True)
class Member:
    """A file within a tar file.

    Args:
        name: Its path there.
        offset: Where its bytes start, in the tar file.
        size: How many there are.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """A link within a tar file.

    Args:
        place: How many files stand before it.
        name: Its path there.
        target: The path that it leads to.
    """

    place: int
    name: str
    target: str


@dataclass
class Members:
    """What the headers of a tar file tell.

    Args:
        files: In their order; a link has its own name, and the place of what it leads to.
        passed_over: (name, reason) of members that cannot be read where they lie.
        counts: How many members need no name each, by what they are.
        damage: What is wrong with the file from some place on; "" if nothing is.
        end: Bytes of the file up to that place.
        total: Members, all of them.
    """

    files: list[Member] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    damage: str = ""
    end: int = 0
    total: int = 0


def read_members(path: Path) -> Members:
    """Read all headers of a tar file.

    Raises:
        MageKitError: If it is no plain tar file, or holds more members than this program can list.
    """
    listing, size = Members(), path.stat().st_size
    links: list[Link] = []
    for header in _headers(path, size, listing):
        if header.kind in (HARD_LINK, SYMBOLIC_LINK):
            links.append(Link(len(listing.files), header.name, _target(header)))
        elif header.kind == FOLDER:
            listing.counts[FOLDERS] += 1
        elif reason := _unreadable(header, size):
            listing.passed_over.append((header.name, reason))
        else:
            listing.files.append(Member(header.name, header.offset, header.size))
    _follow(links, listing)
    return listing


def plain(name: str) -> str:
    """Return a member's path without what says nothing: "./a//b" is "a/b"."""
    return posixpath.normpath(name).lstrip("/")


def _unreadable(header: Header, size: int) -> str | None:
    if header.kind != FILE:
        return SPARSE if header.kind == SPARSE_FILE else DEVICE
    return CUT if header.offset + header.size > size else None


def _headers(path: Path, size: int, listing: Members) -> Iterator[Header]:
    """Yield headers; where they break off after some, keep those and note it."""
    with path.open("rb") as raw:
        if not size:
            raise _no_tar(path, "empty file")
        try:
            while (header := read_header(raw.fileno(), listing.end)) is not None:
                listing.total, listing.end = listing.total + 1, header.end
                if listing.total > MOST:
                    raise MageKitError(f"path: '{path}', holds over {MOST:,} members: split it into several tar files")
                yield header
                if header.end > size:
                    raise DamageError("unexpected end of data")
        except (DamageError, OSError) as error:
            if not listing.total:
                raise _no_tar(path, error) from None
            listing.damage = f"damaged after {listing.total} members: {error}"


def _no_tar(path: Path, error: object) -> MageKitError:
    return MageKitError(f"path: '{path}', must be a tar file, neither compressed nor damaged at its start ({error})")


def _follow(links: list[Link], listing: Members) -> None:
    """Put links among the files, each in its place, with the bytes of what they lead to."""
    files = {plain(member.name): member for member in reversed(listing.files)}
    targets = {plain(link.name): link.target for link in links}
    in_order = [((number, 1), member) for number, member in enumerate(listing.files)]
    for link in links:
        name = link.target
        for _ in range(_LINKS):
            if name in files or name not in targets:
                break
            name = targets[name]
        if name in files:
            in_order.append(((link.place, 0), replace(files[name], name=link.name)))
        else:
            listing.passed_over.append((link.name, LINK))
    if links:
        listing.files = [member for _, member in sorted(in_order, key=lambda pair: pair[0])]


def _target(header: Header) -> str:
    """The path that a link leads to; a hard link's starts at the root of the tar file, a symbolic one's beside it."""
    if header.kind == HARD_LINK:
        return plain(header.target)
    if header.target.startswith("/"):
        return header.target  # outside
    return posixpath.normpath(posixpath.join(posixpath.dirname(plain(header.name)), header.target))
