"""`mage-kit plan` of a recipe that trains a tokenizer alone."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.table import Table

from mage_kit.cli.app import console
from mage_kit.planning.estimate import Machine
from mage_kit.planning.tokenizer_costs import TokenizerCosts, tokenizer_costs
from mage_kit.recipes import Recipe
from mage_kit.recipes.tokenizer_workload import tokenizer_workload


def plan_tokenizer(recipe: Recipe, machine: Machine, json_out: bool) -> None:
    """Print what the training of a tokenizer costs.

    Args:
        recipe: Of a tokenizer alone.
        machine: What it is trained on.
        json_out: Print JSON instead of tables.
    """
    work = tokenizer_workload(recipe)
    costs = tokenizer_costs(work, machine)
    if json_out:
        typer.echo(json.dumps({**asdict(costs), "peak": costs.peak, "days": costs.days}, indent=2))
        return
    console.print(_parts(costs, work.name))
    console.print(_run(costs, machine, work.batch))
    console.print("estimates by counting (docs/planning.md); nothing was run")


def _parts(costs: TokenizerCosts, name: str) -> Table:
    table = Table("part", "parameters", "GFLOP an image and step", title=name)
    for part, operations in costs.operations.items():
        count = costs.parameters.get(part)
        table.add_row(part, "frozen" if count is None else f"{count / 1e6:.2f} M", f"{operations / 1e9:.1f}")
    total = f"{sum(costs.operations.values()) / 1e9:.1f}"
    table.add_row("all", f"{sum(costs.parameters.values()) / 1e6:.1f} M", total)
    return table


def _run(costs: TokenizerCosts, machine: Machine, batch: int) -> Table:
    title = f"{machine.processes} x {machine.tflops:g} TFLOP/s at {machine.utilization:.0%}"
    table = Table("run", "", title=title)
    table.add_row("steps", f"{costs.steps:,} of {batch} images")
    table.add_row("a step, computing", f"{1000 * costs.seconds_per_step:,.3g} ms")
    link = costs.traffic / (machine.bandwidth * 1e9)
    table.add_row(
        "a step, traffic", f"{costs.traffic / 1e9:.2f} GB a process, {link:.3f} s at {machine.bandwidth:g} GB/s"
    )
    table.add_row("weights, gradients, optimizer", f"{costs.standing / 2**30:.2f} GiB")
    table.add_row(
        "kept for the backward pass", f"{costs.kept * costs.micro / 2**30:.2f} GiB, {costs.micro} images at once"
    )
    table.add_row("memory, about", f"{costs.peak / 2**30:.2f} GiB in float32")
    table.add_row("time", _duration(costs.days))
    return table


def _duration(days: float) -> str:
    """Days, or hours or minutes where it is less than one."""
    for name, a_day in (("days", 1), ("hours", 24), ("minutes", 24 * 60)):
        if days * a_day >= 1:
            return f"{days * a_day:.1f} {name}"
    return f"{days * 86_400:.0f} seconds"
