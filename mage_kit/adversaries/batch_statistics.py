"""Running statistics of batch norms, which one player's pass must not move in the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def without_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch norms leave their running statistics alone: a pass of another player changes nothing here."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for part in norms:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in norms:
            part.track_running_stats = True
