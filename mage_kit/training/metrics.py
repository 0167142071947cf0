"""The log, metrics.jsonl; a resumed run continues the same curve."""

from __future__ import annotations

import json
import math
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import write_text
from mage_kit.base.manifest import check_file, list_files, unlist
from mage_kit.base.processes import add_up, on_first
from mage_kit.training.events import Callbacks, LogEvent


class MetricsLog:
    """One JSON object a line; who asked for it is told of each.

    Args:
        folder: The run folder.
        callbacks: Told of each line.
    """

    def __init__(self, folder: Path, callbacks: Callbacks | None = None) -> None:
        self.file = folder / "metrics.jsonl"
        self._callbacks = callbacks or Callbacks()
        self._is_open = False

    def rewind(self, stage: str, step: int) -> None:
        """Drop lines of a stage after a step, as written by a run that was killed after its last checkpoint."""
        if not self.file.is_file():
            return
        lines = [line for line in self.file.read_text().splitlines() if _is_before(line, stage, step)]
        write_text(self.file, "".join(line + "\n" for line in lines))
        unlist(self.file)

    def close(self) -> None:
        """List the log in the manifest: nothing more is written to it, unless the run goes on."""
        on_first(lambda: list_files(self.file) if self.file.is_file() else None)
        self._is_open = False

    def write(self, record: dict[str, Any]) -> None:
        """Append a record, which has `stage` and `step`; all processes call it, the first writes."""
        on_first(lambda: self._append(record))
        self._callbacks.tell(LogEvent(record["stage"], record["step"], record))

    def _append(self, record: dict[str, Any]) -> None:
        if not self._is_open:
            unlist(self.file)
            self._is_open = True
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory used so far: torch's on a GPU, the process's on a CPU; GiB."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)


def read_metrics(folder: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a run, of one stage or of all; a last line that a crash has torn does not count.

    Raises:
        MageKitError: If another line is damaged.
    """
    file = folder / "metrics.jsonl"
    check_file(file)
    lines = file.read_text().splitlines() if file.is_file() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise MageKitError(f"{file}: line {number} is damaged ({error})") from None
    return [record for record in records if stage in (None, record["stage"])]


def _is_before(line: str, stage: str, step: int) -> bool:
    """False also for the torn last line of a killed process."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return False
    return bool(record["stage"] not in (stage, "validation") or record["step"] <= step)


class RatioBins:
    """Loss and accuracy of masked tokens by their image's mask ratio, summed on the device until read.

    Args:
        low: Smallest ratio.
        high: Largest ratio.
        device: Where the sums live.
        hits: Whether the loss says which tokens were predicted right: with the first one that does not, no accuracy is
            told.
    """

    def __init__(self, low: float, high: float, device: torch.device, hits: bool = True) -> None:
        self.hits = hits
        self.first = min(9, math.floor(low * 10 + 1e-9))
        last = max(self.first + 1, math.ceil(high * 10 - 1e-9))
        self.names = [f"{k / 10:.1f}-{(k + 1) / 10:.1f}" for k in range(self.first, last)]
        self.sums_3K = torch.zeros(3, len(self.names), dtype=torch.float64, device=device)

    def add(self, ratio_B: Tensor, image_M: Tensor, weight_M: Tensor, rows_M: Tensor, hits_M: Tensor | None) -> None:
        """Add the rows of a batch; rows of weight 0 do not count."""
        place_B = ((ratio_B * 10 + 1e-9).floor().to(torch.int64) - self.first).clamp(0, len(self.names) - 1)
        place_M = place_B.to(image_M.device, non_blocking=True)[image_M]
        self.hits &= hits_M is not None
        hits = torch.zeros_like(rows_M) if hits_M is None else hits_M
        for row, values_M in enumerate((rows_M * weight_M, hits * weight_M, weight_M)):
            self.sums_3K[row].index_add_(0, place_M, values_M.to(torch.float64))

    def read(self) -> dict[str, Any]:
        """Return {"masked_loss", "accuracy", "by_ratio"} of all processes and start again."""
        losses, hits, counts = add_up(self.sums_3K).cpu().tolist()
        self.sums_3K.zero_()
        by_ratio = {
            name: {"loss": losses[k] / counts[k], **self._accuracy(hits[k], counts[k]), "tokens": int(counts[k])}
            for k, name in enumerate(self.names)
            if counts[k]
        }
        total = max(1.0, sum(counts))
        return {"masked_loss": sum(losses) / total, **self._accuracy(sum(hits), total), "by_ratio": by_ratio}

    def _accuracy(self, hits: float, count: float) -> dict[str, float]:
        return {"accuracy": hits / count} if self.hits else {}
