"""mage-kit, the command line. Every error that a user can cause is one message and exit code 2."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mage_kit.errors import MageKitError

app = typer.Typer(
    name="mage-kit",
    help="Masked image modeling from interchangeable parts: MAGE, MAGE-C, MaskGIT, MAE.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

console = Console(width=None if sys.stdout.isatty() else 140)  # a log or a pipe has no width of its own

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe file (JSON).")]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, as written by train.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="path=value, as training.epochs=10; may be given several times."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier call left there.")]


@app.command()
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/NAME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in the run folder.")
    ] = False,
) -> None:
    """Train tokenizer and model as a recipe says."""
    from mage_kit.jobs.train import train as run
    from mage_kit.recipe import Recipe

    loaded = Recipe.load(recipe, set_ or [])
    folder = run(loaded, out or Path("runs") / loaded.name, resume=resume)
    console.print(f"run folder: {folder}", markup=False, soft_wrap=True)


@app.command()
def generate(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Image i follows (seed, i) alone.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Decoding steps; default the recipe's.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    out: Annotated[Path | None, typer.Option(help="PNG to write; default RUN/generated-seedSEED-nN.png.")] = None,
    separate: Annotated[bool, typer.Option("--separate", help="One PNG an image, in a folder named by --out.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Generate images from nothing, as one picture or one file each."""
    from mage_kit.jobs.generate import generate_files
    from mage_kit.progress import Reporter

    written = generate_files(
        run,
        n,
        seed=seed,
        steps=steps,
        batch=batch,
        out=out,
        separate=separate,
        overwrite=overwrite,
        reporter=Reporter(),
    )
    console.print(f"written: {written}", markup=False, soft_wrap=True)


@app.command()
def probe(
    run: RunArgument,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Linear probe on frozen features, beside raw pixels and the untrained encoder."""
    from mage_kit.evaluation.probe import probe_run
    from mage_kit.files import write_json
    from mage_kit.progress import Reporter

    result = probe_run(run, Reporter())
    write_json(run / "probe.json", result)
    if json_out:
        typer.echo(json.dumps(result, indent=2))
        return
    table = Table("features", "top-1", "deviation over folds", "best strength", title="Linear probe")
    for name, item in result.items():
        if isinstance(item, dict):
            table.add_row(name.replace("_", " "), f"{item['top1']:.4f}", f"{item['std']:.4f}", f"{item['strength']:g}")
    console.print(table)
    console.print(result["note"], markup=False)


@app.command()
def check(recipe: RecipeArgument, set_: SetOption = None) -> None:
    """Check a recipe: every problem at once, every part built without memory, no data read."""
    from mage_kit.recipe import Recipe

    loaded = Recipe.load(recipe, set_ or [])
    model = loaded.check()
    count = sum(parameter.numel() for _, parameter in model.trainable())
    tokenizer = sum(parameter.numel() for parameter in model.tokenizer.parameters())
    spec = model.spec
    codes = f"{spec.codes} codes" if spec.discrete else f"{spec.width} values a token"
    console.print(
        f"{recipe}: holds. {loaded.name}: {count / 1e6:.1f}M parameters, tokenizer {tokenizer / 1e6:.1f}M, "
        f"{spec.grid} tokens, {codes}, {model.n_dropped} of {spec.grid.size} dropped",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default standard output.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Print the JSON Schema of recipes, with every registered component."""
    from mage_kit.files import write_text
    from mage_kit.recipe import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() and not overwrite:
        raise MageKitError(f"out: '{out}', exists; choose another or give --overwrite")
    write_text(out, text)


@app.command()
def ls(
    family: Annotated[str | None, typer.Argument(help="One family, as mask_ratios; default all.")] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module to import first.")] = None,
) -> None:
    """List components with their parameters, bounds and defaults."""
    from mage_kit.jobs.listing import component_tables

    for table in component_tables(family, plugin or []):
        console.print(table)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="A mask ratio or a schedule, as truncated_normal or cosine.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="parameter=value of the component.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the grid.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Decoding steps, for schedules.")] = 20,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module to import first.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write a PNG.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Plot a mask ratio's distribution or a schedule's counts."""
    from mage_kit.jobs.listing import show_component

    for line in show_component(kind, set_ or [], tokens, steps, plugin or [], out, overwrite):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Train on handwritten digits, generate, reconstruct, probe, measure: the whole job in minutes."""
    from mage_kit.jobs.demo import run_demo
    from mage_kit.jobs.folders import clear_run
    from mage_kit.progress import Reporter
    from mage_kit.recipe import Recipe

    loaded = Recipe.load(_shipped("digits_demo.json"), set_ or [])
    loaded.check()
    clear_run(out, overwrite)
    result = run_demo(loaded, out, Reporter())
    table = Table("measure", "value", title=f"{out}")
    for name, value in result.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else escape(_plain(value)))
    console.print(table)


@app.command()
def compare(
    recipe: RecipeArgument,
    vary: Annotated[str, typer.Option(help="path=A,B,C or path=[JSON, JSON]: one run each.")],
    set_: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are kept.")] = Path("runs/compare"),
) -> None:
    """Train variants of a recipe and print one table: probe, Fréchet distance, loss by mask ratio."""
    from mage_kit.jobs.compare import compare as run
    from mage_kit.progress import Reporter

    rows = run(recipe, set_ or [], vary, out, Reporter())
    bins = sorted({name for row in rows for name in row["loss_by_ratio"]})
    first = Column(vary.partition("=")[0], no_wrap=True)
    table = Table(first, "probe top-1", "Fréchet", "(real halves)", *(f"loss {name}" for name in bins))
    for row in rows:
        losses = [f"{row['loss_by_ratio'][name]:.3f}" if name in row["loss_by_ratio"] else "-" for name in bins]
        numbers = (
            f"{row['linear_probe_top1']:.4f}",
            f"{row['frechet_generated']:.2f}",
            f"{row['frechet_real']:.2f}",
        )
        table.add_row(escape(row["variant"]), *numbers, *losses)
    console.print(table)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shipped(name: str) -> Path:
    """Return a recipe of this package: beside the sources, or inside the installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "recipes", here / "recipes"):
        if (folder / name).is_file():
            return folder / name
    raise MageKitError(f"recipe: {name}, is missing from this installation")


def main() -> None:
    """Entry point: turns errors that a user can cause into one message and exit code 2."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        _stop(str(error))
    except Exception as error:
        # Somebody's plug-in, or a bug of ours: one line that says where; the traceback on request.
        if os.environ.get("MAGE_TRACEBACK"):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename}:{last.lineno}, in {last.name}"
        _stop(f"{type(error).__name__}: {error} ({where}; MAGE_TRACEBACK=1 shows the whole traceback)")


def _stop(message: str) -> None:
    Console(stderr=True).print(f"error: {message}", markup=False, highlight=False, soft_wrap=True, style="red")
    sys.exit(2)


if __name__ == "__main__":
    main()
