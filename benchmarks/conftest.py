"""What the benchmarks share: ceilings measured once, and the table at the end."""

from __future__ import annotations

import pytest
import torch
from mage_kernels import keep_freed_memory

from benchmarks.table import Ceilings, Row, write

_ROWS: list[Row] = []
_CEILINGS = Ceilings(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture(scope="session")
def ceilings() -> Ceilings:
    """The machine's best rates; freed memory is kept, as in our jobs, for every form alike."""
    keep_freed_memory()
    return _CEILINGS


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Lines so far."""
    return _ROWS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if _ROWS:
        terminalreporter.section("kernels")
        write(_ROWS, _CEILINGS, terminalreporter.write_line)
