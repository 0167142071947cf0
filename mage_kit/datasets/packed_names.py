"""Millions of names in two arrays: a list of strings is copied, object by object, into every loading process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray


class PackedNames:
    """Strings by number, in one buffer.

    Args:
        names: Any text that a file system gives.
    """

    def __init__(self, names: Iterable[str]) -> None:
        texts = [name.encode("utf-8", "surrogateescape") for name in names]
        self._bytes: NDArray[np.uint8] = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._ends: NDArray[np.int64] = np.cumsum([len(name) for name in texts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Return a name; negative numbers count from the end.

        Raises:
            IndexError: If there is none of that number.
        """
        count = len(self._ends)
        if not -count <= index < count:
            raise IndexError(f"index: {index}, must lie below {count}")
        place = index % count
        start = self._ends[place - 1] if place else 0
        return self._bytes[start : self._ends[place]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def arrays(self, name: str) -> dict[str, NDArray[np.uint8] | NDArray[np.int64]]:
        """Return the two arrays under names of their own, for a file."""
        return {f"{name}_bytes": self._bytes, f"{name}_ends": self._ends}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], name: str) -> PackedNames:
        """Return what `arrays` wrote."""
        names = cls(())
        names._bytes, names._ends = arrays[f"{name}_bytes"].astype(np.uint8), arrays[f"{name}_ends"].astype(np.int64)
        return names
