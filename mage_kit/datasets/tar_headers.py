"""Headers of a tar file (POSIX, GNU and the old form), a stranger's too: memory is bounded, time grows with its size.

Python's own reader takes a header's word for sizes, follows chains of headers by recursion and, in some versions,
searches extended headers in quadratic time: a file of a few kilobytes can stop a training for ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
FILE, FOLDER, SPARSE_FILE, OTHER = "file", "folder", "sparse", "other"
HARD_LINK, SYMBOLIC_LINK = "hard link", "symbolic link"
_EXTENSION_BYTES = 1 << 20  # of a long name or an extended header; longer ones hold no name
_KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"1": HARD_LINK, b"2": SYMBOLIC_LINK, b"5": FOLDER, b"S": SPARSE_FILE}
_WITHOUT_DATA = b"123456"  # links, devices, folders and pipes: whatever size is written, the next header follows
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = b"L", b"K", b"xX", b"g"
_GNU = b"ustar  \0"  # the magic of GNU's form, where a prefix would stand are times
_OCTAL, _RECORD = re.compile(rb" *([0-7]*)[ \0]*"), re.compile(rb"([0-9]{1,7}) ([^=]+)=")
_SPARSE_WORDS = b"GNU.sparse."


class DamageError(ValueError):
    """A tar file does not go on as tar files do."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the headers of one member say.

    Args:
        name: Its path.
        kind: FILE, FOLDER, SPARSE_FILE, HARD_LINK, SYMBOLIC_LINK or OTHER.
        offset: Where its bytes start, in the tar file.
        size: How many there are.
        target: What a link leads to, as it is written.
        end: Where the next header starts.
    """

    name: str
    kind: str
    offset: int
    size: int
    target: str
    end: int


def read_header(handle: int, offset: int) -> Header | None:
    """Return the member whose headers start at a place of a tar file; None where the file ends there.

    Args:
        handle: Of the open file.
        offset: In bytes.

    Raises:
        DamageError: If no headers of a tar file stand there.
    """
    known: dict[bytes, bytes] = {}
    while (block := os.pread(handle, BLOCK, offset)).strip(b"\0"):
        _check(block, offset)
        kind, size = block[156:157], _number(block[124:136], offset)
        if kind in _EXTENDED or kind in (_LONG_NAME, _LONG_LINK, _GLOBAL):
            # of two that say the same the first holds, as in other readers
            known = dict(_extension(kind, _payload(handle, offset, size), offset)) | known
            offset += BLOCK + _padded(size)
        else:
            return _member(handle, block, offset, size, known)
    if known:
        raise DamageError(f"no member follows its extended header at byte {offset}")
    return None


def _member(handle: int, block: bytes, offset: int, size: int, known: dict[bytes, bytes]) -> Header:
    kind, start = block[156:157], offset + BLOCK
    name, target = _text(known.get(b"path", _field(block[:100]))), known.get(b"linkpath", _field(block[157:257]))
    prefix = _field(block[345:500])
    if prefix and b"path" not in known and block[257:265] != _GNU:
        name = f"{_text(prefix)}/{name}"
    if b"size" in known:
        size = _number(known[b"size"], offset, base=10)
    if _KINDS.get(kind) == SPARSE_FILE:
        start = _end_of_map(handle, block[482], start)
    words = _kind(kind, name, is_sparse=any(word.startswith(_SPARSE_WORDS) for word in known))
    name = _text(known.get(b"GNU.sparse.name", b"")) or name
    end = start if kind in _WITHOUT_DATA or words == FOLDER else start + _padded(size)
    return Header(name.rstrip("/"), words, start, size, _text(target), end)


def _kind(kind: bytes, name: str, *, is_sparse: bool) -> str:
    if kind == b"\0" and name.endswith("/"):  # the old form's folders are files by their type
        return FOLDER
    return SPARSE_FILE if is_sparse else _KINDS.get(kind, OTHER)


def _check(block: bytes, offset: int) -> None:
    """Refuse a block whose sum is not the one that it states; old writers summed signed bytes."""
    if len(block) == BLOCK:
        rest = block[:148] + b" " * 8 + block[156:]
        stated, total = _number(block[148:156], offset), sum(rest)
        if stated == total or stated == sum(memoryview(rest).cast("b")):
            return
    raise DamageError(f"its headers break off at byte {offset}")


def _number(field: bytes, offset: int, base: int = 8) -> int:
    """The value of a number: octal digits, or bytes after a mark where it is large; in extended headers decimal."""
    if base == 8 and field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = (_OCTAL if base == 8 else re.compile(rb"([0-9]{1,20})")).fullmatch(field.partition(b"\0")[0])
    if match is None:
        raise DamageError(f"a size that is none, in the headers at byte {offset}")
    return int(match[1] or b"0", base)


def _payload(handle: int, offset: int, size: int) -> bytes:
    if size > _EXTENSION_BYTES:
        raise DamageError(
            f"an extended header of {size:,} bytes at byte {offset}, must have at most {_EXTENSION_BYTES:,}"
        )
    content = os.pread(handle, size, offset + BLOCK)
    if len(content) < size:
        raise DamageError(f"the file ends inside the extended header at byte {offset}")
    return content


def _extension(kind: bytes, content: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield what an extended header says of the next member, by the words of the POSIX form."""
    if kind in (_LONG_NAME, _LONG_LINK):
        yield b"path" if kind == _LONG_NAME else b"linkpath", _field(content)
        return
    for word, value in _records(content, offset):
        is_of_one = word in (b"path", b"linkpath", b"size") or word.startswith(_SPARSE_WORDS)
        if kind == _GLOBAL and is_of_one:
            raise DamageError(f"one {_text(word)[:40]} for all members, in the global header at byte {offset}")
        if is_of_one:
            yield word, value


def _records(content: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records "LENGTH WORD=VALUE\\n" of a POSIX header."""
    place = 0
    while place < len(content) and content[place]:
        match = _RECORD.match(content, place)
        end = place + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise DamageError(f"an extended header that does not add up at byte {offset}")
        yield match[2], content[match.end() : end - 1]
        place = end


def _end_of_map(handle: int, has_more: int, start: int) -> int:
    """Where the map of a sparse member in GNU's old form ends, which goes on in blocks of its own."""
    while has_more:
        block = os.pread(handle, BLOCK, start)
        if len(block) < BLOCK:
            raise DamageError("the file ends inside the map of a sparse member")
        has_more, start = block[504], start + BLOCK
    return start


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _field(content: bytes) -> bytes:
    return content.partition(b"\0")[0]


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")
