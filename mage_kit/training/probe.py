"""What this machine does faster, measured once at the start of a run and written down, so that resuming repeats it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from mage_kit.files import read_json, write_json

Precision = Literal["float32", "bfloat16"]

_GAIN = 1.1  # bfloat16 has to be worth the loss of digits
_REPEATS = 6


@dataclass(frozen=True)
class Decision:
    """One choice and why, in words."""

    value: str
    reason: str


class Decisions:
    """The choices of a run by name, kept in `decisions.json` of the run folder.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "decisions.json"
        stored = read_json(self._file) if self._file.is_file() else {}
        self._made = {name: Decision(**item) for name, item in stored.items()}

    def get(self, name: str, decide: Callable[[], Decision]) -> Decision:
        """Return the stored choice, or make and store it."""
        if name not in self._made:
            self._made[name] = decide()
            write_json(self._file, {key: asdict(item) for key, item in self._made.items()})
        return self._made[name]


def choose_precision(asked: str, device: torch.device, run: Callable[[], None]) -> Decision:
    """Return "float32" or "bfloat16" by running a forward and backward pass in both.

    Args:
        asked: "auto", or a precision that is taken as it is.
        device: Where the model is.
        run: One forward and backward pass.
    """
    if asked != "auto":
        return Decision(asked, f"precision '{asked}' was asked for")

    def timed(fast: bool) -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - start

    # In turn, and the best of several: a machine that stalls now and then must not decide.
    pairs = [(timed(False), timed(True)) for _ in range(_REPEATS)]
    ratio = min(slow for slow, _ in pairs) / min(fast for _, fast in pairs)
    value = "bfloat16" if ratio > _GAIN else "float32"
    return Decision(value, f"bfloat16 ran {ratio:.2f}x as fast as float32 on {device.type}")


def fabric_precision(precision: str) -> Literal["bf16-mixed", "32-true"]:
    """Return lightning-fabric's name of a precision."""
    return "bf16-mixed" if precision == "bfloat16" else "32-true"
