"""How good runs are: measured one by one, and gathered into one table."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mage_kit.base.errors import MageKitError
from mage_kit.cli.app import OverwriteOption, app, console
from mage_kit.cli.measure_commands import MeasureGroup

evaluate = typer.Typer(
    cls=MeasureGroup,
    help="Measure a run; results go to RUN/eval/NAME.json, and none is replaced unasked.",
    no_args_is_help=True,
)
app.add_typer(evaluate, name="eval")


class Values(StrEnum):
    """What an extractor takes."""

    bytes = "bytes"
    unit = "unit"
    signed = "signed"


@evaluate.command()
def reference(
    folder: Annotated[Path, typer.Argument(help="Folder of real images, PNG, at the model's size.")],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    extractor: Annotated[
        Path | None,
        typer.Option(help="Your Inception file, TorchScript or .pt2, named by its SHA-256. It is run: trust it."),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Of the model's images.")] = 256,
    height: Annotated[int, typer.Option(min=1, help="Of the model's images.")] = 256,
    grey: Annotated[bool, typer.Option("--grey", help="The model's images are grey.")] = False,
    side: Annotated[int, typer.Option(min=0, help="Pixels a side that the extractor takes; 0: the images' own.")] = 299,
    values: Annotated[
        Values, typer.Option(help="What it takes: bytes 0 to 255, unit 0 to 1, signed -1 to 1.")
    ] = Values.bytes,
    name: Annotated[str | None, typer.Option(help="Of the set; default the folder's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take lossy, mixed or resized files all the same.")] = False,
    levels: Annotated[
        int | None, typer.Option(min=2, help="Of deep pictures, from black to white, as data.levels of a recipe.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a reference set: features of real images, and a manifest of what they are."""
    from mage_kit.base.files import check_writable
    from mage_kit.base.progress import Reporter
    from mage_kit.evaluation.generation_metrics import load_extractor, make_reference
    from mage_kit.evaluation.measures.fid import NO_EXTRACTOR
    from mage_kit.store.folders import best_device

    if out.suffix != ".safetensors":
        raise MageKitError(f"out: '{out}', must be named .safetensors")
    if out.exists() and not overwrite:
        raise MageKitError(f"out: '{out}', exists; choose another or give --overwrite")
    check_writable(out)
    if extractor is None:
        raise MageKitError(NO_EXTRACTOR)
    network = load_extractor(extractor, side=side or None, values=values.value, device=best_device())
    size, channels = (height, width), 1 if grey else 3
    result = make_reference(
        folder, out, network, size=size, channels=channels, name=name, force=force, levels=levels, reporter=Reporter()
    )  # fmt: skip
    manifest = {key: value for key, value in result.manifest.items() if key != "extractor"}
    console.print(json.dumps(manifest, indent=2))
    console.print(f"written: {out}", soft_wrap=True)


@app.command()
def results(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="Also write a JSON file.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Gather what was measured of runs into one table; the paper's figure only beside the same data and protocol."""
    from mage_kit.base.files import write_json
    from mage_kit.studies.results import as_json, gather

    lines = gather(runs)
    if out is not None and out.exists() and not overwrite:
        raise MageKitError(f"out: '{out}', exists; choose another or give --overwrite")
    notes = list(dict.fromkeys(line.about for line in lines))
    papers = any(line.paper is not None for line in lines)
    for run in dict.fromkeys(line.run for line in lines):
        table = Table("measure", "of", "figure", "value", *(["paper"] if papers else []), "note", title=run)
        for line in lines:
            if line.run == run:
                paper = [f"{line.paper:.4f}" if line.paper is not None else "-"] if papers else []
                cells = (line.measure, line.row, line.name, line.shown, *paper, str(notes.index(line.about) + 1))
                table.add_row(*cells)
        console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"{number}: {note}", soft_wrap=True)
    if not papers:
        rule = "none is of the paper's data and protocol; why, for each, is in the file of --out"
        console.print(f"The paper's figures stand beside none of these: {rule}.", soft_wrap=True)
    if out is not None:
        write_json(out, as_json(lines))
        console.print(f"written: {out}", soft_wrap=True)
