"""Tasks that srun started, as one world: what torchrun would have said is read from SLURM's own variables.

Each task of `srun --ntasks 8 mage-kit train ...` is a process of the run. A shell, a batch script or a single task is
one process by itself, whatever the job has reserved.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

from mage_kit.base.errors import MageKitError

_PORTS = range(20_000, 40_000)


def adopt_slurm(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT for a task of several.

    Nothing is done where torchrun, or the user, has set them.

    Args:
        environment: Of the process; changed in place.

    Raises:
        MageKitError: If SLURM started several tasks and does not say which one this is.
    """
    if "RANK" in environment or not environment.get("SLURM_STEP_ID", "").isdecimal():
        return  # a batch script has no step, or one called "batch"
    count = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if count == "1":
        return
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_NODEID")
    absent = [name for name in names if name not in environment]
    if absent or not count.isdecimal():
        raise MageKitError(f"SLURM started {count} tasks, and says no {', '.join(absent)}; start them with torchrun")
    here = _tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment["SLURM_NODEID"])]
    job = int(environment.get("SLURM_JOB_ID", "0")) * 97 + int(environment["SLURM_STEP_ID"])
    environment.update(
        RANK=environment["SLURM_PROCID"],
        WORLD_SIZE=count,
        LOCAL_RANK=environment["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=str(here),
        MASTER_ADDR=first_host(environment["SLURM_STEP_NODELIST"]),
        MASTER_PORT=environment.get("MASTER_PORT", str(_PORTS[job % len(_PORTS)])),
    )


def first_host(names: str) -> str:
    """Return the first host of SLURM's list, as "node[03-07,9],login" -> "node03"."""
    match = re.match(r"([^\[,]+)(?:\[([^\]]+)\]([^,]*))?", names)
    if match is None:
        raise MageKitError(f"SLURM_STEP_NODELIST: '{names}', is no list of hosts")
    start, numbers, end = match.groups()
    return start if numbers is None else f"{start}{re.split('[-,]', numbers)[0]}{end}"


def _tasks_per_node(text: str) -> list[int]:
    """Return the tasks of each node, as "4(x2),1" -> [4, 4, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise MageKitError(f"SLURM_STEP_TASKS_PER_NODE: '{text}', is no list of numbers of tasks")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
