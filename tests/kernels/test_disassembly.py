"""What the kernels become on GPUs, read from their machine code: no GPU is needed to compile for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def machine_code(*words: str) -> dict[str, dict[str, int]]:
    """In a process of its own, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "disassembly.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(kernels: dict[str, dict[str, int]]) -> None:
    """No register spills to memory, no store waits for others, nothing calls a subroutine; reads are wide."""
    for name, code in kernels.items():
        assert not code["spilled"] and not code["fences"] and not code["subroutines"], (name, code)
        assert code["registers"] <= 255 and (code["vectors"] > 0 or name.startswith("remask")), (name, code)


def test_every_kernel_on_sm_90_at_the_papers_sizes() -> None:
    kernels = machine_code("90")
    assert len(kernels) == 24
    check(kernels)


@pytest.mark.slow
def test_every_kernel_at_every_size_on_three_architectures() -> None:
    kernels = machine_code("80", "90", "100", "--sizes", "all")
    assert len(kernels) == 3 * 30
    check(kernels)
