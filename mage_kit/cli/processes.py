"""Commands that run in several processes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from mage_kit.base.errors import MageKitError

_FEW = 4  # processes that may always be tried out

ProcessesOption = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Processes on this machine; default one a GPU, or one. Or use torchrun."),
]


def spread_out(count: int | None) -> None:
    """Start this command again in several processes, and end with them; nothing where one will do or torchrun did."""
    import torch

    from mage_kit.base.processes import started_by
    from mage_kit.training.launch import run_processes

    if started_by()[0] > 1:
        return
    number = count_processes(count)
    if number > 1:
        threads = None if torch.cuda.device_count() else max(1, torch.get_num_threads() // number)
        raise typer.Exit(run_processes(number, ["-m", "mage_kit.cli", *sys.argv[1:]], threads))


def one_process(count: int | None, rule: str) -> None:
    """Refuse several processes, whether asked for here or started by torchrun.

    Raises:
        MageKitError: If there are.
    """
    from mage_kit.base.processes import started_by

    if (number := max(count or 1, started_by()[0])) > 1:
        raise MageKitError(f"processes: {number}, {rule}")


def count_processes(count: int | None) -> int:
    """Return how many processes a command takes here.

    Args:
        count: Asked for; None for one a GPU, or one.

    Raises:
        MageKitError: If this machine is too small for so many.
    """
    import torch

    gpus = torch.cuda.device_count()
    number = count or max(1, gpus)
    if gpus and number > gpus:
        raise MageKitError(f"processes: {number}, must be at most the GPUs of this machine ({gpus})")
    if not gpus and number > (most := max(_FEW, os.cpu_count() or 1)):
        raise MageKitError(f"processes: {number}, must be at most the processors of this machine ({most})")
    return number
