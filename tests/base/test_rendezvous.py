"""A process whose partner died before they met says so, rather than wait for hours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

PROGRAM = """
from datetime import timedelta
import torch
from mage_kit.base import errors, processes, rendezvous
rendezvous.MEETING = timedelta(seconds=2)
try:
    processes.start(torch.device("cpu"))
except errors.MageKitError as error:
    print(error)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_partner_that_never_comes(rank: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **world}, capture_output=True, text=True, timeout=60
    )
    said = f"processes: 2, they did not meet at 127.0.0.1:{port} within 2 s ("
    assert done.returncode == 0 and done.stdout.startswith(said), done.stdout + done.stderr
    assert done.stdout.strip().endswith("; must all be started, and none may die before")
