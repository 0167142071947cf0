"""Freed memory stays with the process when asked to, and goes back when not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mage_kernels import host_memory, keep_freed_memory

from mage_kit import cli

LARGE = 96 << 20

_PROGRAM = """
import ctypes, resource, sys
from mage_kernels import keep_freed_memory

def faults():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    counts = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = library.malloc(ctypes.c_size_t({large}))
        ctypes.memset(block, 1, {large})
        library.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return counts[-1]

assert keep_freed_memory()
kept = faults()
assert keep_freed_memory(False)
print(kept, faults())
"""


@pytest.mark.skipif(host_memory._glibc() is None, reason="not the GNU C library")
def test_kept_memory_is_used_again_without_page_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(large=LARGE)], check=True, capture_output=True, text=True
    )
    kept, returned = map(int, done.stdout.split())
    assert kept < returned / 10 and returned > 40  # huge pages, where they are on, leave 48


def test_other_systems_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory.sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_the_command_line_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    frame = sys.modules["mage_kit.cli.app"]
    monkeypatch.setattr(frame, "keep_freed_memory", lambda: asked.append(True))
    monkeypatch.setattr(sys, "argv", ["mage-kit", "ls"])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked == [True]
