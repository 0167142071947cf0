"""Freed memory stays with the process when asked to, and goes back when not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mage_kernels import host_memory, keep_freed_memory

import mage_kit as mk
from mage_kit.jobs import generate as generate_job
from mage_kit.progress import Reporter

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


def test_the_generating_job_asks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: mk.Mage) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(generate_job, "keep_freed_memory", lambda: asked.append(True))
    mk.save(tiny, tmp_path / "model")
    words = {"seed": 0, "steps": 2, "batch": 2, "separate": False, "overwrite": False, "precision": "auto"}
    generate_job.generate_files(tmp_path / "model", 2, out=tmp_path / "a.png", reporter=Reporter(), **words)  # type: ignore[arg-type]
    assert asked == [True]
