"""Each side of the comparison in a process of its own, told in turn what to do while the other one waits.

In one process the sides would share the C library's heap: what one side keeps, the other finds ready, and a third of
the reference's time on a CPU hangs on that. As a program: `python -m benchmarks.workers SIDE SETTINGS`, orders on the
standard input, one line each, answered by one line.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from mage_kernels import keep_freed_memory

from benchmarks.ceilings import synchronise
from benchmarks.sides import Bench, Settings

ROOT = Path(__file__).parent.parent


class Worker:
    """One side, waiting in its process.

    Args:
        side: "published", "published_kept" (the same under the memory rule of our jobs) or "mage_kit".
        settings: What is measured.
    """

    def __init__(self, side: str, settings: Settings) -> None:
        words = [sys.executable, "-m", "benchmarks.workers", side, json.dumps(asdict(settings))]
        self.process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.attention = str(self._answer()["ready"])

    def seconds(self, order: str) -> float:
        """Have an order done; how long it took."""
        return float(self._ask(order)["seconds"])

    def peak(self, order: str) -> float:
        """Have an order done; the most bytes that were in use at once, weights and optimiser included."""
        return float(self._ask(f"peak {order}")["peak"])

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _ask(self, order: str) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with exit code {self.process.wait()}; its error stands above")
        return dict(json.loads(line))


def obey(bench: Bench, order: str) -> dict[str, float]:
    """Do one order: a step or a generation by name, or the peak of one."""
    device = bench.device
    if order.startswith("peak "):
        forget_peak(device)
        bench.do(order.removeprefix("peak "))
        return {"peak": read_peak(device)}
    synchronise(device)
    start = time.perf_counter()
    bench.do(order)
    synchronise(device)
    return {"seconds": time.perf_counter() - start}


def forget_peak(device: torch.device) -> None:
    """Start a new high-water mark."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def read_peak(device: torch.device) -> float:
    """Bytes at the high-water mark: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def main() -> None:
    """Obey until the orders end."""
    side, settings = sys.argv[1], Settings(**json.loads(sys.argv[2]))
    if side != "published":
        keep_freed_memory()  # as our commands do
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = Bench(settings, device, side.removesuffix("_kept"))
    gc.collect()
    print(json.dumps({"ready": bench.attention}), flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(bench, line.strip())), flush=True)


if __name__ == "__main__":
    main()
