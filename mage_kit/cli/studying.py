"""`mage-kit study`: the paper's tables as trainings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from mage_kit.base.errors import MageKitError
from mage_kit.base.json_text import json_or_text
from mage_kit.cli.app import SetOption, app, console, settings_of

if TYPE_CHECKING:
    from mage_kit.studies.study import Study
    from mage_kit.studies.study_results import StudyResult

study = typer.Typer(help="The paper's tables as trainings: ls, show, run.", no_args_is_help=True)
app.add_typer(study, name="study")

NameArgument = Annotated[str, typer.Argument(help="As `mage-kit study ls` has it, or a JSON file of a study.")]
ScaleOption = Annotated[
    str | None,
    typer.Option(help="digits, pictograms, or imagenet with --set data.path=DIR; default the study's first."),
]
OutOption = Annotated[Path, typer.Option(help="Folder of results, and of trainings, which studies share.")]
HOME = Path("runs/studies")


@study.command("ls")
def list_studies(out: OutOption = HOME) -> None:
    """List the studies, and what was run of each."""
    from mage_kit.studies.study_files import load_study, study_names
    from mage_kit.studies.study_results import read_study_result

    table = Table(Column("study", no_wrap=True), "varies", "rows", "scales", "run")
    for name in study_names():
        each = load_study(name)
        scales = list(each.scales)
        done = [scale for scale in scales if read_study_result(each, scale, out) is not None]
        table.add_row(name, each.title, str(len(each.rows)), ", ".join(scales), ", ".join(done) or "-")
    console.print(table)


@study.command("show")
def show(name: NameArgument, scale: ScaleOption = None, out: OutOption = HOME) -> None:
    """Show a study: settings, the paper's numbers, what it is held to say, its cost, and its result if it was run."""
    from mage_kit.studies.run_study import check_scale
    from mage_kit.studies.study_files import load_study
    from mage_kit.studies.study_results import read_study_result

    each = load_study(name)
    scale = scale or next(iter(each.scales))
    check_scale(each, scale)
    console.print(f"{each.name}: {each.title}. {each.table}; {each.conditions}", style="bold", soft_wrap=True)
    console.print(f"The paper: {each.finding}", soft_wrap=True)
    console.print(_settings(each, scale))
    for measure in each.measures:
        console.print(f"{measure.name}: in the paper {measure.paper}", soft_wrap=True)
    result = read_study_result(each, scale, out)
    if result is None:
        console.print(f"not run at this scale in {out}: mage-kit study run {name} --scale {scale}", soft_wrap=True)
    else:
        _print_result(result)


@study.command("run")
def run(
    name: NameArgument,
    scale: ScaleOption = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=1000, help="From 0 on; default the study's own.")] = None,
    set_: SetOption = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="MEASURE.NAME=VALUE or COLUMN.NAME=VALUE, as fid.reference=real.safetensors."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="A column to leave out; may be repeated.")] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="Write recipes and print commands that train them, for several GPUs.")
    ] = False,
    out: OutOption = HOME,
) -> None:
    """Train and measure a study's rows over seeds, in one process; a call that was interrupted goes on."""
    from mage_kit.base.progress import Reporter
    from mage_kit.studies.run_study import check_scale, run_study
    from mage_kit.studies.study_commands import training_commands
    from mage_kit.studies.study_files import load_study

    each = load_study(name)
    scale = scale or next(iter(each.scales))
    numbers = None if seeds is None else range(seeds)
    if commands:
        check_scale(each, scale)
        for line in training_commands(each, scale, out, numbers, settings_of(set_)):
            typer.echo(line)
        return
    result = run_study(
        each, scale, out, seeds=numbers,
        overrides=settings_of(set_), options=_options(option or []), skip=skip or [],
        reporter=Reporter(),
    )  # fmt: skip
    _print_result(result)
    if not any(row.values for row in result.comparison.rows):
        raise typer.Exit(2)


def _options(texts: list[str]) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, sign, value = text.partition("=")
        column, dot, name = place.rpartition(".")
        if not (sign and dot and column and name):
            raise MageKitError(f"--option {text}: must have the form MEASURE.NAME=VALUE or COLUMN.NAME=VALUE")
        if name in options.setdefault(column, {}):
            raise MageKitError(f"--option {place}: given twice")
        options[column][name] = json_or_text(value)
    return options


def _settings(each: Study, scale: str) -> Table:
    columns = (Column(measure.name, overflow="fold") for measure in each.measures)
    table = Table("row", Column("changes", overflow="fold", min_width=12), *columns, "days planned")
    for row in each.rows:
        recipe, changes = each.changes(row, scale)
        numbers = ["-" if (value := row.paper.get(m.name)) is None else f"{value:g}" for m in each.measures]
        start = [f"starts from '{row.starts_from}'"] if row.starts_from else []
        table.add_row(
            row.name, "\n".join([recipe, *changes, *start]), *numbers, row.reason(scale) or _days(each, row.name, scale)
        )
    return table


def _days(each: Study, row: str, scale: str) -> str:
    """What `mage-kit plan` says of a row on 8 GPUs, where the planner knows its task."""
    from mage_kit.planning import Machine, estimate
    from mage_kit.planning.estimate import IMAGENET
    from mage_kit.recipes.workload import workload
    from mage_kit.studies.study_trials import recipe_of

    if scale != "imagenet":
        return "-"
    try:
        costs = estimate(workload(recipe_of(each, row, scale)(0)), Machine(), IMAGENET)
    except MageKitError:
        return "not counted"
    return f"{costs.days:.1f} on 8 GPUs"


def _print_result(result: StudyResult) -> None:
    from mage_kit.cli.comparison_tables import print_comparison
    from mage_kit.studies.comparison_table import number

    print_comparison(result.comparison)
    table = Table("the paper has it", "here", "difference", "the paper's", title="verdicts, by paired seeds")
    for verdict in result.verdicts:
        contrast, difference = verdict.contrast, verdict.difference
        says = f"{contrast.measure}: {contrast.better} ahead of {contrast.worse}"
        says += " (decides)" if contrast.decides else ""
        paper = contrast.note or ("-" if verdict.paper is None else f"{verdict.paper:+.4g}")
        table.add_row(says, verdict.way, "-" if difference is None else number(difference, sign=True), paper)
    console.print(table)
    for row in result.study.rows:
        if reason := row.reason(result.scale):
            console.print(f"{row.name}: not run, {reason}", soft_wrap=True)
    if result.outdated:
        rule = "settings have changed since; run it again"
        console.print(f"{', '.join(result.outdated)}: {rule}", style="yellow", soft_wrap=True)
    words = f"The paper's numbers are of {result.study.conditions}; ours are not comparable with them."
    console.print(words, soft_wrap=True)
