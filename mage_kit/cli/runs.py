"""Commands that train, generate and measure."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mage_kit.base.fields import MOST_WORKERS
from mage_kit.base.processes import is_first
from mage_kit.cli.app import OverwriteOption, RecipeArgument, SetOption, app, console, settings_of
from mage_kit.cli.processes import ProcessesOption, spread_out


@app.command()
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the run folder.")
    ] = False,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Go on beyond the run's end: its recipe with more epochs, or another rate."),
    ] = False,
    count: ProcessesOption = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Train on this token cache, which must fit the recipe (mage-kit tokenize).")
    ] = None,
) -> None:
    """Train tokenizer and model, or a classifier, as a recipe says. SIGTERM and Ctrl-C save first; --resume goes on."""
    from mage_kit.base.progress import Reporter
    from mage_kit.recipes import Recipe
    from mage_kit.recipes.token_recipe import on_tokens
    from mage_kit.studies.training_audit import TrainingAudit
    from mage_kit.training.train import train as run

    contents = Recipe.load(recipe, settings_of(set_))
    if tokens is not None:
        contents = on_tokens(contents, tokens)
    spread_out(count)
    reporter, place = Reporter(), out or Path("runs") / contents.name
    audit = TrainingAudit(contents, reporter)
    folder = run(contents, place, resume=resume, extend=extend, reporter=reporter, on_end=audit)
    if is_first():
        audit.make_up(folder)
        console.print(f"run folder: {folder}", soft_wrap=True)


@app.command()
def tokenize(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option(help="Cache folder; an unfinished one is completed.")],
    set_: SetOption = None,
    data: Annotated[Path | None, typer.Option(help="As --set data.path=DIR.")] = None,
    crops: Annotated[int, typer.Option(min=1, max=1000, help="Augmented views of each image.")] = 1,
    flip: Annotated[bool, typer.Option("--flip", help="Keep each view as cropped and mirrored.")] = False,
    workers: Annotated[int, typer.Option(min=0, max=MOST_WORKERS, help="Processes that load images.")] = 0,
    count: ProcessesOption = None,
) -> None:
    """Turn images into a token cache; training from it leaves tokenizer and images out of the loop."""
    from mage_kit.recipes.recipe import Recipe
    from mage_kit.studies.tokenize import tokenize as run

    settings = [*(settings_of(set_)), *([] if data is None else [f"data.path={json.dumps(str(data))}"])]
    contents = Recipe.load(recipe, settings)
    spread_out(count)
    folder = run(contents, out, crops=crops, mirrored=flip, workers=workers)
    if is_first():
        again = " ".join(f"--set {shlex.quote(item)}" for item in settings)
        hint = f"mage-kit train {recipe} {again} --tokens {folder}".replace("  ", " ")
        console.print(f"token cache: {folder}; train on it: {hint}", soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a demo that was interrupted.")] = False,
) -> None:
    """Train on handwritten digits, generate, reconstruct, probe, measure: the whole job in minutes."""
    from mage_kit.base.progress import Reporter
    from mage_kit.recipes import Recipe
    from mage_kit.recipes.shipped_recipes import shipped
    from mage_kit.store.run_folders import clear_run
    from mage_kit.studies.demo import run_demo
    from mage_kit.training.check import check

    contents = Recipe.load(shipped("digits_demo.json"), settings_of(set_))
    check(contents)
    if not resume:
        clear_run(out, overwrite)
    result = run_demo(contents, out, Reporter(), resume=resume)
    table = Table("measure", "value", title=f"{out}")
    for name, value in result.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else _plain(value))
    console.print(table)


@app.command()
def verify(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder whose first steps are repeated; default the shipped digits.")
    ] = None,
    lines: Annotated[int | None, typer.Option(min=1, help="Lines of its log to repeat.")] = None,
) -> None:
    """Repeat the first steps of a stored run and compare the curves; exit code 1 if they are not the same."""
    from mage_kit.base.progress import Reporter
    from mage_kit.recipes.shipped_recipes import shipped
    from mage_kit.studies.verify import verify as again

    comparison = again(run or shipped("reference_digits"), lines, Reporter())
    table = Table("step", "stored loss", "here", "deviation", title=comparison.about or str(run))
    for line in comparison.lines:
        table.add_row(str(line.step), f"{line.stored:.5f}", f"{line.here:.5f}", f"{line.deviation:.2e}")
    console.print(table)
    verdict = "within" if comparison.holds else "OUTSIDE"
    console.print(f"{verdict} the tolerance of {comparison.tolerance:g}")
    if not comparison.holds:
        raise typer.Exit(1)


@app.command()
def compare(
    recipe: RecipeArgument,
    vary: Annotated[
        list[str], typer.Option(help="path=A,B,C or path=[JSON, JSON]; of several, every combination is a row.")
    ],
    set_: SetOption = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings of each row, from the recipe's seed on.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of table, plot and trainings; a call again goes on.")] = Path(
        "runs/compare"
    ),
    runs: Annotated[Path | None, typer.Option(help="Trainings, which comparisons may share; default OUT/runs.")] = None,
) -> None:
    """Train variants of a recipe over seeds; one table: means, intervals, differences to the first row."""
    from mage_kit.base.progress import Reporter
    from mage_kit.cli.comparison_tables import print_comparison
    from mage_kit.studies.compare import compare as run
    from mage_kit.studies.vary import parse_vary

    result = run(
        recipe, parse_vary(vary), seeds=seeds, out=out, overrides=settings_of(set_), runs=runs, reporter=Reporter()
    )
    print_comparison(result)
    console.print(f"written: {out / 'compare'}.json, .md, .csv, .tex, .png", soft_wrap=True)
    if not any(row.values for row in result.rows):
        raise typer.Exit(2)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
