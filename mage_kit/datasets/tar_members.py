"""Every member of a tar file, from its headers: what can be read where it lies, and what cannot, and why.

Links are followed to members of the same file, and nowhere else.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mage_kit.base.errors import MageKitError

CUT = "the tar file ends inside it"
LINK = "a link to no file of the same tar file, or a loop of links"
SPARSE = "a sparse member, whose bytes do not lie in one piece"
DEVICE = "a device, a pipe, or of a type that tar files do not have"
FOLDERS = "folders"
_LINKS = 40  # one after another


@dataclass(frozen=True)
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
        MageKitError: If it is no plain tar file.
    """
    listing, size = Members(), path.stat().st_size
    links: list[tuple[int, tarfile.TarInfo]] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for header in _headers(tar, path, listing):
                listing.total += 1
                if header.issym() or header.islnk():
                    links.append((len(listing.files), header))
                elif header.isdir():
                    listing.counts[FOLDERS] += 1
                elif reason := _unreadable(header, size):
                    listing.passed_over.append((header.name, reason))
                else:
                    listing.files.append(Member(header.name, header.offset_data, header.size))
    except (tarfile.ReadError, EOFError) as error:
        rule = "must be a tar file, neither compressed nor damaged at its start"
        raise MageKitError(f"path: '{path}', {rule} ({error})") from None
    _follow(links, listing)
    return listing


def plain(name: str) -> str:
    """Return a member's path without what says nothing: "./a//b" is "a/b"."""
    return posixpath.normpath(name).lstrip("/")


def _unreadable(header: tarfile.TarInfo, size: int) -> str | None:
    if not header.isreg():
        return DEVICE
    if header.issparse():
        return SPARSE
    return CUT if header.offset_data + header.size > size else None


def _headers(tar: tarfile.TarFile, path: Path, listing: Members) -> Iterator[tarfile.TarInfo]:
    """Yield headers; where they break off after some, keep those and note it."""
    count = 0
    try:
        while (header := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header of the file
            count += 1
            yield header
        if not _ends(tar, path):  # a header that does not add up ends the loop without a word
            listing.damage = f"damaged after {count} members: its headers break off at byte {tar.offset}"
    except (tarfile.TarError, OSError, EOFError) as error:
        if not count:
            raise tarfile.ReadError(str(error)) from None
        listing.damage = f"damaged after {count} members: {error}"
    listing.end = tar.offset


def _ends(tar: tarfile.TarFile, path: Path) -> bool:
    """Whether a tar file ends where reading stopped: with the zeros that end one, or with the file."""
    with path.open("rb") as raw:
        raw.seek(tar.offset)
        return not raw.read(tarfile.BLOCKSIZE).strip(b"\0")


def _follow(links: list[tuple[int, tarfile.TarInfo]], listing: Members) -> None:
    """Put links among the files, each in its place, with the bytes of what they lead to."""
    files = {plain(member.name): member for member in reversed(listing.files)}
    targets = {plain(header.name): _target(header) for _, header in links}
    in_order = [((number, 1), member) for number, member in enumerate(listing.files)]
    for place, header in links:
        name = _target(header)
        for _ in range(_LINKS):
            if name in files or name not in targets:
                break
            name = targets[name]
        if name in files:
            in_order.append(((place, 0), replace(files[name], name=header.name)))
        else:
            listing.passed_over.append((header.name, LINK))
    if links:
        listing.files = [member for _, member in sorted(in_order, key=lambda pair: pair[0])]


def _target(header: tarfile.TarInfo) -> str:
    """The path that a link leads to; a hard link's starts at the root of the tar file, a symbolic one's beside it."""
    if header.islnk():
        return plain(header.linkname)
    if header.linkname.startswith("/"):
        return header.linkname  # outside
    return posixpath.normpath(posixpath.join(posixpath.dirname(plain(header.name)), header.linkname))
