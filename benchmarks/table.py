"""Results of the operations as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from benchmarks.cases import Case
from benchmarks.ceilings import copy_ceiling, matrix_ceiling
from benchmarks.timing import Timing


@dataclass(frozen=True)
class Row:
    """One line.

    Args:
        operation: What was timed.
        size: Named size.
        form: Implementation.
        seconds: Median.
        spread: Between two medians, as a share.
        rate: Bytes/s or FLOP/s.
        ceiling: Name of the rate that it is measured against.
        share: Of that ceiling; 0 until the table is finished.
        over_plain: How many times as fast as plain torch; None where plain torch was not timed.
    """

    operation: str
    size: str
    form: str
    seconds: float
    spread: float
    rate: float
    ceiling: str
    share: float = 0.0
    over_plain: float | None = None


def row(case: Case, timing: Timing) -> Row:
    """Make a line of a case and its time."""
    ceiling = f"matrix {str(case.dtype)[6:]}" if case.flops else "copy"
    rate = (case.flops or case.moved) / timing.seconds
    return Row(case.operation, case.size, case.form, timing.seconds, timing.spread, rate, ceiling)


def measure_ceilings(device: torch.device, before: dict[str, float] | None = None) -> dict[str, float]:
    """Measure the machine's best rates; asked again at the end, the better of both: a busy moment is no ceiling."""
    before = before or {}
    found = {f"matrix {str(dtype)[6:]}": matrix_ceiling(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    found["copy"] = copy_ceiling(device)
    return {name: max(rate, before.get(name, 0.0)) for name, rate in found.items()}


def finished(rows: Iterable[Row], ceilings: dict[str, float]) -> list[Row]:
    """Fill in the share of the ceiling, and how many times as fast as plain torch each line is."""
    rows = list(rows)
    plain = {(line.operation, line.size): line.seconds for line in rows if line.form == "plain"}
    return [
        replace(
            line,
            share=line.rate / ceilings[line.ceiling],
            over_plain=plain[key] / line.seconds if (key := (line.operation, line.size)) in plain else None,
        )
        for line in rows
    ]


def write(rows: list[Row], ceilings: dict[str, float], say: Callable[[str], object]) -> None:
    """Say the table of finished lines."""
    for name, rate in ceilings.items():
        say(f"ceiling, {name}: {rate / 1e9:,.0f} {_unit(name)}")
    heads = f"{'time':>11} {'spread':>7} {'rate':>16} {'ceiling':>8} {'x plain':>8}"
    say(f"{'operation':16} {'size':16} {'form':15} {heads}")
    for line in rows:
        ratio = "" if line.over_plain is None else f"{line.over_plain:.2f}x"
        say(
            f"{line.operation:16} {line.size:16} {line.form:15} {line.seconds * 1e6:8,.0f} us {line.spread:6.0%}"
            f" {line.rate / 1e9:8,.0f} {_unit(line.ceiling):7} {line.share:7.0%} {ratio:>8}"
        )


def _unit(ceiling: str) -> str:
    return "GFLOP/s" if ceiling.startswith("matrix") else "GB/s"
