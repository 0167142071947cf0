"""The command that says what a recipe costs before it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from mage_kit.cli.app import RecipeArgument, SetOption, app, console, settings_of
from mage_kit.planning import Estimate, Machine, estimate
from mage_kit.planning.estimate import IMAGENET, as_json
from mage_kit.planning.passes import operations_of
from mage_kit.planning.scaling import StepForecast, scale
from mage_kit.recipes.workload import Workload, workload

_TESTED = 50_000  # ImageNet's validation images
_COUNTS = (1, 8, 64, 512)


@app.command()
def plan(
    recipe: RecipeArgument,
    set_: SetOption = None,
    gpus: Annotated[int, typer.Option(min=1, help="Processes, one a GPU.")] = 8,
    tflops: Annotated[float, typer.Option(min=0.001, help="Matrix rate of one, TFLOP/s, by its data sheet.")] = 400.0,
    utilization: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of it that training reaches.")] = 0.35,
    bandwidth: Annotated[float, typer.Option(min=0.001, help="Slowest link between them, GB/s each way.")] = 25.0,
    memory: Annotated[float, typer.Option(min=0.1, help="Of one, GiB.")] = 80.0,
    node_bandwidth: Annotated[
        float, typer.Option(min=0.001, help="Links within a machine of 8 GPUs, GB/s each way.")
    ] = 300.0,
    images: Annotated[int, typer.Option(min=1, help="In the data set; default ImageNet's.")] = IMAGENET,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Parameters, operations, memory, the batch that fits, days and traffic of a recipe; docs/planning.md says how."""
    from mage_kit.cli.tokenizer_plan import plan_tokenizer
    from mage_kit.recipes import Recipe
    from mage_kit.recipes.answers import kind_of
    from mage_kit.recipes.tokenizer_workload import trains_tokenizer
    from mage_kit.training.check import check

    machine = Machine(gpus, tflops, utilization, bandwidth, memory)
    contents = Recipe.load(recipe, settings_of(set_))
    check(contents)
    if trains_tokenizer(contents):
        plan_tokenizer(contents, machine, json_out)
        return
    work = workload(contents)
    costs = estimate(work, machine, images)
    measures = _operations_of_measures(work, images, kind_of(contents))
    forecasts = scale(costs, work.model, machine, _COUNTS, node_bandwidth)
    if json_out:
        lines = [asdict(line) for line in forecasts]
        typer.echo(json.dumps({**as_json(costs), "scaling": lines, "measures": measures}, indent=2))
        return
    tables = [_parts(costs, contents.name), _memory(costs, machine), _run(costs, machine), _scaling(forecasts)]
    for table in (*tables, _measures(measures, machine, images)):
        console.print(table)
    console.print("estimates by formula (docs/planning.md); nothing was run")


def _parts(costs: Estimate, name: str) -> Table:
    table = Table("part", "parameters", "GFLOP an image, forward + backward", title=name)
    for part in dict.fromkeys((*costs.parameters, *costs.operations)):
        count, work = costs.parameters.get(part), costs.operations.get(part)
        table.add_row(part, _millions(count), "-" if work is None else f"{work / 1e9:.1f}")
    table.add_row("all", _millions(sum(costs.parameters.values())), f"{sum(costs.operations.values()) / 1e9:.1f}")
    return table


def _memory(costs: Estimate, machine: Machine) -> Table:
    memory = costs.memory
    table = Table("memory of a process", "GiB", title=f"{costs.micro} images at once")
    rows = {
        "weights": memory.weights, "gradients": memory.gradients, "optimizer state": memory.optimizer,
        "mean of the weights": memory.mean, "bfloat16 copies": memory.low, "kept for the backward pass": memory.kept,
        "at the turn to it": memory.passing, "while tokenizing": memory.tokenizer, "peak": memory.peak,
    }  # fmt: skip
    for name, size in rows.items():
        table.add_row(name, f"{size / 2**30:.2f}")
    table.add_row(f"images at once that fit into {machine.memory:g} GiB", str(costs.fits) if costs.fits else "none")
    return table


def _run(costs: Estimate, machine: Machine) -> Table:
    table = Table("run", "", title=f"{machine.processes} x {machine.tflops:g} TFLOP/s at {machine.utilization:.0%}")
    table.add_row("steps", f"{costs.steps:,} of {costs.batch} images")
    table.add_row("a step, computing", _seconds(costs.seconds_per_step))
    share = costs.link_seconds / costs.seconds_per_step
    traffic = f"{costs.traffic / 1e9:.2f} GB a process, {_seconds(costs.link_seconds)} at {machine.bandwidth:g} GB/s"
    table.add_row("a step, traffic", f"{traffic} ({share:.0%} of computing, beside which most of it runs)")
    table.add_row("days", f"{costs.days:.2f}")
    table.add_row("mean mask ratio", f"{costs.ratio:.3f}")
    return table


def _scaling(lines: list[StepForecast]) -> Table:
    names = ("GPUs", "images each", "computing", "waiting for gradients", "efficiency")
    table = Table(*names, title="a step of whole models, simulated")
    for line in lines:
        waiting = f"{_seconds(line.waiting)}, {line.traffic / 1e9:.2f} GB sent"
        table.add_row(
            str(line.processes), str(line.images), _seconds(line.computing), waiting, f"{line.efficiency:.0%}"
        )
    return table


def _operations_of_measures(work: Workload, images: int, kind: str) -> dict[str, float]:
    """Operations of each measure by kind, of those for such a recipe: each says what it sends through the model."""
    from mage_kit.evaluation.evaluate import make_measure
    from mage_kit.evaluation.measures import MEASURES
    from mage_kit.evaluation.stored_results import ask

    costs = {}
    for entry in MEASURES:
        fields = [field for name, field in entry.config.model_fields.items() if name != "kind"]
        if entry.cls.needs not in (kind, "tokenizer") or any(field.is_required() for field in fields):
            continue  # of another model, or of data sets that only its user knows
        costs[entry.kind] = operations_of(work.model, ask(make_measure(entry.kind), "passes", images, _TESTED))
    return {kind: operations for kind, operations in costs.items() if operations}


def _measures(costs: Mapping[str, float], machine: Machine, images: int) -> Table:
    title = f"{images:,} images to learn from, {_TESTED:,} to test on"
    table = Table("measure", "TFLOP", "on these machines", title=title)
    rate = machine.processes * machine.tflops * 1e12 * machine.utilization
    for kind, operations in costs.items():
        table.add_row(f"eval {kind}", f"{operations / 1e12:,.0f}", _seconds(operations / rate))
    return table


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"
