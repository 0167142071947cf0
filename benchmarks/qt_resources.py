"""Pictures inside Qt's binary resource files (.rcc), which GCompris' packages ship their photographs in.

The layout is Qt's (rcc, format versions 1 to 3, big-endian): a header of offsets, a tree of nodes in rows of fixed
width, names in UTF-16 and data with a length before each. Nothing is unpacked to disk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"qres"
_HEADER = struct.Struct(">4sIIII")  # magic, version, offsets of the tree, of data, of names
_NODE = struct.Struct(">IH8s")  # offset of the name, flags, what a file or a folder has
_FILE, _FOLDER = struct.Struct(">HHI"), struct.Struct(">II")
_COMPRESSED, _IS_FOLDER, _ZSTANDARD = 1, 2, 4
_MOST = 64 * 2**20  # bytes of a member


@dataclass(frozen=True)
class Resources:
    """One file's members.

    Args:
        content: Bytes of the file.
        names: Offset of the names.
        data: Offset of the data.
        tree: Offset of the tree.
        row: Bytes of a node.
    """

    content: bytes
    names: int
    data: int
    tree: int
    row: int

    @classmethod
    def open(cls, path: Path) -> Resources:
        """Read a file.

        Raises:
            ValueError: If it is none of Qt's, or of an unknown version.
        """
        content = path.read_bytes()
        if content[:4] != _MAGIC or len(content) < _HEADER.size:
            raise ValueError(f"{path}: must be a resource file of Qt's")
        _, version, tree, data, names = _HEADER.unpack_from(content)
        if version not in (1, 2, 3):
            raise ValueError(f"{path}: version {version}, must be 1, 2 or 3")
        return cls(content, names, data, tree, 14 if version == 1 else 22)

    def members(self, node: int = 0, folder: str = "") -> Iterator[tuple[str, int]]:
        """Yield path and node of every file below a node that is stored as it is, or by zlib."""
        _, _, rest = _NODE.unpack_from(self.content, self.tree + node * self.row)
        count, first = _FOLDER.unpack(rest)
        for child in range(first, first + count):
            name, flags, _ = _NODE.unpack_from(self.content, self.tree + child * self.row)
            path = f"{folder}/{self._name(name)}".lstrip("/")
            if flags & _IS_FOLDER:
                yield from self.members(child, path)
            elif not flags & _ZSTANDARD:
                yield path, child

    def read(self, node: int) -> bytes:
        """Return a file's bytes.

        Raises:
            ValueError: If it is larger than 64 MiB.
        """
        _, flags, rest = _NODE.unpack_from(self.content, self.tree + node * self.row)
        start = self.data + _FILE.unpack(rest)[2]
        (size,) = struct.unpack_from(">I", self.content, start)
        stored = self.content[start + 4 : start + 4 + size]
        if not flags & _COMPRESSED:
            return stored
        inflater = zlib.decompressobj()  # its first four bytes are the length before
        content = inflater.decompress(stored[4:], _MOST)
        if inflater.unconsumed_tail:
            raise ValueError("a member: over 64 MiB")
        return content

    def _name(self, offset: int) -> str:
        (length,) = struct.unpack_from(">H", self.content, self.names + offset)
        start = self.names + offset + 6  # length, and a hash
        return self.content[start : start + 2 * length].decode("utf-16-be")
