"""Several processes of one command on this machine, without torchrun; over several machines torchrun starts them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from mage_kit.training.signals import WATCHED

_PATIENCE = 20.0  # seconds that the others get once one has failed
_TICK = 0.1
_PR_SET_PDEATHSIG = 1  # Linux: <sys/prctl.h>


def run_processes(count: int, arguments: Sequence[str], threads: int | None) -> int:
    """Run a Python program in several processes that know of each other; return 0, or the first failing exit code.

    Signals to stop are handed on: the processes save and leave by themselves.

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
        # A session of its own, so that a terminal's Ctrl-C comes once, handed on by us.
        child = subprocess.Popen(
            [sys.executable, *arguments], env=environment, start_new_session=True, preexec_fn=_end_with_parent
        )
        children.append(child)
    return _attend(children)


def _end_with_parent() -> None:
    """Have Linux tell a process to stop when the one that started it is gone; other kernels know no such thing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say_who(children: list[subprocess.Popen[bytes]]) -> None:
    """A process that was killed says nothing itself."""
    for rank, child in enumerate(children):
        if child.returncode is not None and child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            text = f"process {rank} of {len(children)} was ended by {name}; the others are ended too"
            print(f"{text}; give the command again, training with --resume", file=sys.stderr, flush=True)


def _attend(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait for all; where one fails the others are ended, since they would wait for it for ever."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    heard = [number for number in WATCHED if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in heard}
    try:
        code, since = 0, 0.0
        while None in [child.poll() for child in children]:
            time.sleep(_TICK)
            if not code:
                code = next((child.returncode for child in children if child.returncode), 0)
                since = time.monotonic()
                if code:
                    _say_who(children)
                    hand_on(signal.SIGTERM, None)
            elif time.monotonic() - since > _PATIENCE:
                for child in children:
                    child.kill()
        code = code or next((child.returncode for child in children if child.returncode), 0)
        return code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
