"""Several processes of one command on this machine, without torchrun; over several machines torchrun starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

_PATIENCE = 20.0  # seconds that the others get once one has failed
_TICK = 0.1


def run_processes(count: int, arguments: Sequence[str], threads: int | None) -> int:
    """Run a Python program in several processes that know of each other; return 0, or the first failing exit code.

    SIGTERM and SIGINT are handed on: the processes save and leave by themselves.

    Args:
        count: Processes.
        arguments: Of the Python interpreter: `-m mage_kit.cli train ...`.
        threads: Of each process; None leaves it to torch.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if threads is not None and "OMP_NUM_THREADS" not in os.environ:
        common["OMP_NUM_THREADS"] = threads
    common["TORCHELASTIC_RUN_ID"] = "mage-kit"  # how fabric knows that the processes are there already
    children = []
    for rank in range(count):
        own = {**common, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
        environment = os.environ | {name: str(value) for name, value in own.items()}
        children.append(subprocess.Popen([sys.executable, *arguments], env=environment))
    return _attend(children)


def _attend(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; where one fails the others are ended, since they would wait for it for ever."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        failed, since = 0, 0.0
        while None in [child.poll() for child in children]:
            time.sleep(_TICK)
            if not failed:
                failed = next((child.returncode for child in children if child.returncode), 0)
                since = time.monotonic()
                if failed:
                    hand_on(signal.SIGTERM, None)
            elif time.monotonic() - since > _PATIENCE:
                for child in children:
                    child.kill()
        failed = failed or next((child.returncode for child in children if child.returncode), 0)
        return failed if failed >= 0 else 128 - failed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
