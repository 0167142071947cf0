"""Memory that training frees stays with the process: on a CPU, giving it back costs more than using it.

glibc returns large blocks to the system at once and takes them again, page by page, zeroed, at the next operation of
the same size: a quarter of a training step goes into page faults. One call tells it to keep them. The process is then
as large as its peak until it ends, which a job that trains does not mind and an application may.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's malloc.h
_KEEP = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 64 << 20}
# What glibc's own rule ends in once large blocks were freed; the rule itself cannot be switched on again.
_RETURN = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10}


def keep_freed_memory(keep: bool = True) -> bool:
    """Tell the C library to keep freed memory, or to return it as it does by itself.

    Args:
        keep: False undoes it and returns what is free now.

    Returns:
        Whether this C library took all of it: glibc on Linux, a recent one to keep blocks above 32 MiB too.
    """
    library = _glibc()
    if library is None:
        return False
    answers = [library.mallopt(name, value) == 1 for name, value in (_KEEP if keep else _RETURN).items()]
    if keep and not answers[0]:  # older releases take at most half a heap: blocks up to there are kept
        library.mallopt(_MMAP_THRESHOLD, _RETURN[_MMAP_THRESHOLD])
    if not keep:
        library.malloc_trim(0)
    return all(answers)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
