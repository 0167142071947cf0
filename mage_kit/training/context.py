"""What both stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mage_kit.datasets import Dataset
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.training.broken import BrokenImages
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.probe import Decisions
from mage_kit.training.signals import StopSignals


@dataclass(frozen=True)
class Run:
    """A run under way.

    Args:
        recipe: What it does.
        dataset: Its images.
        out: Its folder.
        device: Where it computes.
        decisions: What was measured at its start.
        log: Its metrics.
        broken: Images that it passed over.
        signals: Whether it was told to stop.
        reporter: Where progress goes.
    """

    recipe: Recipe
    dataset: Dataset
    out: Path
    device: torch.device
    decisions: Decisions
    log: MetricsLog
    broken: BrokenImages
    signals: StopSignals
    reporter: Reporter
