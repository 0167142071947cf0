"""Check and time every operation in every form that runs here; JSON out.

    python -m benchmarks.operations --json FILE [--toy]

An operation that fails its check is a line of the result, and the others are timed all the same.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import torch

from benchmarks.cases import cases
from benchmarks.part_command import part_parser
from benchmarks.table import Row, finished, measure_ceilings, row, write
from benchmarks.timing import timed


def operations(device: torch.device, toy: bool) -> tuple[list[Row], dict[str, float], list[str]]:
    """Return the lines of all operations, the machine's ceilings, and what failed.

    Args:
        device: Where.
        toy: Small tensors alone, a few repeats: to see that it runs.
    """
    before, lines, failed = measure_ceilings(device), [], []
    for case in cases(device):
        if toy and case.size != "small":
            continue
        try:
            case.check()
            runs = [case.fresh() for _ in range(3)]
            lines.append(row(case, timed(runs, device, *((1, 2) if toy else (25, 100)))))
        except Exception as error:  # one broken form must not cost the other results
            failed.append(f"{case.name}: {type(error).__name__}: {error}")
            print(f"  FAILED {failed[-1]}", flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    ceilings = before if toy else measure_ceilings(device, before)
    return finished(lines, ceilings), ceilings, failed


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    return part_parser(__doc__, "small tensors alone, a few repeats")


def main() -> None:
    """Measure, print, write."""
    options = parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lines, ceilings, failed = operations(device, options.toy)
    write(lines, ceilings, print)
    result = {"ceilings": ceilings, "operations": [asdict(line) for line in lines], "failed": failed}
    options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
