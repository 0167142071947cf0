"""Results of the operations as a table and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

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
        unit: "GB/s" or "GFLOP/s".
        share: Of the ceiling measured in this process.
        over_plain: How many times as fast as plain torch; None where plain torch was not timed.
    """

    operation: str
    size: str
    form: str
    seconds: float
    spread: float
    rate: float
    unit: str
    share: float
    over_plain: float | None = None


class Ceilings:
    """The machine's best rates, measured when first asked for.

    Args:
        device: Where.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.found: dict[str, float] = {}

    def of(self, case: Case) -> float:
        """The rate that a case is measured against."""
        name = f"matrix {str(case.dtype)[6:]}" if case.flops else "copy"
        if name not in self.found:
            self.found[name] = matrix_ceiling(self.device, case.dtype) if case.flops else copy_ceiling(self.device)
        return self.found[name]


def row(case: Case, timing: Timing, ceilings: Ceilings) -> Row:
    """Make a line of a case and its time."""
    rate = (case.flops or case.moved) / timing.seconds
    return Row(
        case.operation, case.size, case.form, timing.seconds, timing.spread,
        rate, "GFLOP/s" if case.flops else "GB/s", rate / ceilings.of(case),
    )  # fmt: skip


def against_plain(rows: Iterable[Row]) -> list[Row]:
    """Fill in how many times as fast as plain torch each line is."""
    rows = list(rows)
    plain = {(line.operation, line.size): line.seconds for line in rows if line.form == "plain"}
    return [
        Row(**{**asdict(line), "over_plain": plain[line.operation, line.size] / line.seconds})
        if (line.operation, line.size) in plain
        else line
        for line in rows
    ]


def write(rows: list[Row], ceilings: Ceilings, say: Callable[[str], object]) -> None:
    """Say the table."""
    for name, rate in ceilings.found.items():
        say(f"ceiling, {name}: {rate / 1e9:,.0f} {'GFLOP/s' if name.startswith('matrix') else 'GB/s'}")
    heads = f"{'time':>11} {'spread':>7} {'rate':>16} {'ceiling':>8} {'x plain':>8}"
    say(f"{'operation':16} {'size':16} {'form':15} {heads}")
    for line in against_plain(rows):
        ratio = "" if line.over_plain is None else f"{line.over_plain:.2f}x"
        say(
            f"{line.operation:16} {line.size:16} {line.form:15} {line.seconds * 1e6:8,.0f} us {line.spread:6.0%}"
            f" {line.rate / 1e9:8,.0f} {line.unit:7} {line.share:7.0%} {ratio:>8}"
        )
