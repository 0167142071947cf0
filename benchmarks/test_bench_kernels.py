"""`pytest --benchmark`: every operation in every form that runs here, checked against the reference, then timed.

Times on a CPU are pytest-benchmark's, whose options (--benchmark-json, --benchmark-compare) work; on a GPU, where it
would measure launching, those of the table are taken by events.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cases import Case, cases
from benchmarks.ceilings import synchronise
from benchmarks.table import Row, row
from benchmarks.timing import halves, timed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("case", cases(DEVICE), ids=lambda case: case.name)
def test_operation(case: Case, rows: list[Row], benchmark: Any) -> None:
    case.check()
    run = case.fresh()
    benchmark.group = f"{case.operation} {case.size}"
    benchmark.pedantic(lambda: (run(), synchronise(DEVICE)), warmup_rounds=3, rounds=30)
    timing = halves(benchmark.stats.stats.data)
    if DEVICE.type == "cuda":
        timing = timed([run, *(case.fresh() for _ in range(2))], DEVICE, warm=25, repeats=100)
    rows.append(row(case, timing))
