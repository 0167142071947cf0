"""The loop of a training as `mage_kit.train` makes it, at its start, for tests that look at single steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import mage_kit as mk
from mage_kit.base.progress import Reporter
from mage_kit.training import resolve
from mage_kit.training.batches import spread
from mage_kit.training.check import build_tasks
from mage_kit.training.decisions import Decisions
from mage_kit.training.engine import make_fabric
from mage_kit.training.events import Callbacks
from mage_kit.training.metrics import MetricsLog
from mage_kit.training.run import Run, meet
from mage_kit.training.signals import StopSignals
from mage_kit.training.train import Loop

CPU = torch.device("cpu")


def loop_of(
    recipe: mk.Recipe,
    section: str = "training",
    *,
    parts: mk.Parts | None = None,
    precision: str = "float32",
    shard: bool = False,
) -> Loop:
    """One of a recipe's trainings, with untrained parts unless some are given; nothing is read but images."""
    parts = parts or mk.build(recipe)
    path, config = f"$.{section}", getattr(recipe, section)
    task = build_tasks(recipe, parts)[path]
    images = task.accept(recipe.build_dataset(), None, recipe.seed, path)
    layout = spread(path, config.batch, config.micro_batch, recipe.name)
    job = resolve._job(recipe, path, task, images, layout, parts.tokenizer)
    resolved = resolve.Resolved(
        recipe.name,
        recipe.seed,
        recipe.to_json(),
        {},
        images,
        parts.tokenizer,
        {},
        parts.model,
        (job,),
        frozenset(),
        frozenset(),
    )
    out = Path(tempfile.mkdtemp())
    run = Run(
        resolved, out, CPU, Decisions(out), MetricsLog(out), StopSignals(), Reporter.silent(), Callbacks()
    )  # fmt: skip
    meet(job, run)
    return Loop(job, run, make_fabric(CPU, shard, precision == "bfloat16"), precision)
