"""`import mage_kit` is quick and brings no heavy library."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import time, sys, torch
start = time.perf_counter()
import mage_kit
seconds = time.perf_counter() - start
heavy = [name for name in ("triton", "xformers", "lightning_fabric", "sklearn", "matplotlib") if name in sys.modules]
print(seconds, *heavy)
"""


def test_import_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert not heavy
    assert float(seconds) < 2.0
