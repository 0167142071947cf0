"""How the processes of one training meet."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mage_kit.base.errors import MageKitError

MEETING = timedelta(minutes=10)  # one that died before they met would else be waited for until somebody looks


def meet(backend: str, patience: timedelta) -> None:
    """Start torch.distributed among the processes that the environment names (RANK, WORLD_SIZE, MASTER_ADDR, _PORT).

    Args:
        backend: Of torch.distributed.
        patience: How long each waits for the others later on.

    Raises:
        MageKitError: If they do not meet within ten minutes.
    """
    try:
        store, rank, count = next(rendezvous("env://", timeout=MEETING))
    except (dist.DistError, RuntimeError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '')}"
        met = f"they did not meet at {place} within {MEETING.total_seconds():g} s ({str(error).splitlines()[0][:200]})"
        rule = "must all be started, and none may die before"
        raise MageKitError(f"processes: {os.environ['WORLD_SIZE']}, {met}; {rule}") from None
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
