"""Commands that look at recipes and components; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mage_kit.base.errors import MageKitError
from mage_kit.cli.app import OverwriteOption, RecipeArgument, SetOption, app, console, settings_of


@app.command()
def check(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Check a recipe: every problem at once, every part built without memory, no data read."""
    from mage_kit.planning.room import memory_note
    from mage_kit.recipes import Recipe
    from mage_kit.training.check import check as check_parts

    contents = Recipe.load(recipe, settings_of(set_))
    parts = check_parts(contents)
    tokenizer = sum(parameter.numel() for parameter in parts.tokenizer.parameters()) / 1e6
    spec = parts.tokenizer.spec
    codes = f"{spec.codes} codes" if spec.discrete else f"{spec.width} values a token"
    about = [f"tokenizer {tokenizer:.1f}M", f"{spec.grid} tokens", codes]
    if parts.model is not None:
        count = sum(parameter.numel() for _, parameter in parts.model.trainable()) / 1e6
        about = [f"{count:.1f}M parameters", *about, *parts.model.figures()]
    text = f"{recipe}: holds. {contents.name}: {', '.join(about)}"
    console.print(text, soft_wrap=True)
    if note := memory_note(contents, parts):
        console.print(f"note: {note}", soft_wrap=True)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default standard output.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Print the JSON Schema of recipes, with every registered component."""
    from mage_kit.base.files import write_text
    from mage_kit.recipes import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() and not overwrite:
        raise MageKitError(f"out: '{out}', exists; choose another or give --overwrite")
    write_text(out, text)


@app.command()
def doctor(
    backend: Annotated[str, typer.Option(help="auto, triton, torch or reference: as in a recipe's kernels.")] = "auto",
) -> None:
    """Say what this machine has, and for each kernel what would run here and why."""
    from mage_kernels import survey

    from mage_kit.base.machine import machine
    from mage_kit.store.folders import best_device

    device = best_device()
    about = Table("machine", "", title=f"mage-kit on {device}")
    for name, value in machine(device):
        about.add_row(name, value)
    table = Table("operation", "runs as", "why")
    for choice in survey(device, backend):  # each probed by running it
        table.add_row(choice.operation, choice.implementation, choice.reason)
    console.print(about)
    console.print(table)


@app.command()
def ls(
    family: Annotated[str | None, typer.Argument(help="One family, as mask_ratios; default all.")] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module to import first.")] = None,
) -> None:
    """List components with their parameters, bounds and defaults."""
    from mage_kit.cli.listing import component_tables

    for table in component_tables(family, plugin or []):
        console.print(table)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="A mask ratio or a schedule, as truncated_normal or cosine.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="parameter=value of the component.")] = None,
    tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="Tokens of the grid.")] = 256,
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Decoding steps, for schedules.")] = 20,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module to import first.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a PNG.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Plot a mask ratio's distribution or a schedule's counts."""
    from mage_kit.cli.listing import show_component

    for line in show_component(kind, settings_of(set_), tokens, steps, plugin or [], out, overwrite):
        console.print(line, soft_wrap=True)
