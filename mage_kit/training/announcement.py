"""What a training says of itself before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from mage_kit.base.progress import Reporter
from mage_kit.training.job import Job
from mage_kit.training.players import Player


def announce(job: Job, players: Sequence[Player], reporter: Reporter) -> None:
    """Print the arithmetic of the effective batch, and what of the recipe changes nothing here."""
    layout, task = job.layout, job.task
    prefix = "sharded, " if task.shard and layout.world > 1 else ""
    rates = ", ".join(f"{player.rate.peak:g}" for player in players)
    reporter.say(f"{task.stage}: {prefix}{layout}; learning rate {rates}; {len(job.images)} images")
    for player in players:
        if player.rate.warmup > (own := job.steps - player.first_step):
            rule = f"its rate ends at {own / player.rate.warmup:.0%} of {player.rate.peak:g}"
            reporter.say(f"warm-up: {player.rate.warmup} steps, {player.name} trains for {own} alone: {rule}")
    if task.shard and layout.world == 1:
        reporter.say(f"{job.path}.shard: true, but there is one process: nothing is sharded")
