"""What the benchmarks share: ceilings measured before and after, and the table at the end."""

from __future__ import annotations

import pytest
import torch
from mage_kernels import keep_freed_memory

from benchmarks.table import Row, finished, measure_ceilings, write

_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_ROWS: list[Row] = []
_CEILINGS: dict[str, float] = {}


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Lines so far. Freed memory is kept, as in our jobs, for every form alike."""
    keep_freed_memory()
    _CEILINGS.update(measure_ceilings(_DEVICE))
    return _ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if _ROWS:
        terminalreporter.section("kernels")
        ceilings = measure_ceilings(_DEVICE, _CEILINGS)
        write(finished(_ROWS, ceilings), ceilings, terminalreporter.write_line)
