"""What would run on this machine."""

from __future__ import annotations

import torch
from mage_kernels import Choice, survey


def choices(device: torch.device, asked: str = "auto") -> list[Choice]:
    """Return what would run for each operation, each probed by running it.

    Raises:
        ValueError: If a backend is asked for by name and cannot run here.
    """
    return survey(device, asked)
