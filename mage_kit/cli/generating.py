"""Images from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mage_kit.cli.app import OverwriteOption, RunArgument, app, console
from mage_kit.cli.decoding_options import (
    DecodingOptions,
    GifOption,
    ImageSizeOption,
    PrecisionOption,
    Precisions,
    SeedOption,
    Weights,
    WeightsOption,
)
from mage_kit.cli.groups import expand_groups
from mage_kit.cli.processes import ProcessesOption, one_process, spread_out

FirstOption = Annotated[
    int, typer.Option(min=0, max=2**62, help="Number of the first: several calls make parts of one set.")
]


@app.command()
@expand_groups
def generate(
    run: RunArgument,
    *,
    n: Annotated[int, typer.Option("-n", min=1, max=10_000_000, help="How many images.")] = 64,
    first: FirstOption = 0,
    seed: SeedOption = 0,
    class_: Annotated[
        list[int] | None,
        typer.Option("--class", help="Of class-conditional runs, several times for one after the other; -1: no class."),
    ] = None,
    decoding: DecodingOptions,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Images at once.")] = 64,
    out: Annotated[
        Path | None, typer.Option(help="PNG of all, or .npz (uint8 arr_0, labels arr_1); default in the run folder.")
    ] = None,
    separate: Annotated[bool, typer.Option("--separate", help="One PNG an image, in a folder named by --out.")] = False,
    count: ProcessesOption = None,
    gif: GifOption = False,
    overwrite: OverwriteOption = False,
    precision: PrecisionOption = Precisions.auto,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the blocks first: pays for many images.")
    ] = False,
    weights: WeightsOption = Weights.raw,
    image_size: ImageSizeOption = None,
) -> None:
    """Generate images from nothing: one picture, or without end a file each or one .npz; killed, it goes on.

    The settings stand in each PNG and in a JSON.
    """
    from mage_kit.base import processes
    from mage_kit.base.progress import Reporter
    from mage_kit.cli.generate_files import generate_files, is_sheet
    from mage_kit.store.folders import best_device

    if is_sheet(n, out, separate):
        one_process(count, "a sheet is made by one; give --separate, or --out FILE.npz")
    else:
        spread_out(count)
        processes.start(best_device())
    place = generate_files(
        run,
        n,
        first=first,
        seed=seed,
        labels=class_,
        changes=decoding.changes(),
        batch=batch,
        out=out,
        separate=separate,
        overwrite=overwrite,
        precision=precision.value,
        compile_=compile_,
        ema=weights is Weights.ema,
        image_size=image_size,
        gif=gif,
        reporter=Reporter() if processes.is_first() else Reporter.silent(),
    )
    if processes.is_first():
        console.print(f"written: {place}", soft_wrap=True)


@app.command()
def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="HTML file; default report.html in the run folder.")] = None,
    mae: Annotated[Path | None, typer.Option(help="Another run, whose reconstructions stand beside.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write one self-contained HTML page: curves, samples, reconstructions, codebook, settings."""
    from mage_kit.report import write_report

    place = write_report(run, out, mae=mae, overwrite=overwrite)
    console.print(f"written: {place}", soft_wrap=True)


@app.command("app")
def page(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 7860,
    weights: WeightsOption = Weights.raw,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name that the page may be asked for by too; several times.")
    ] = None,
) -> None:
    """Serve a page on which to draw a mask, inpaint, and watch the canvas fill; needs the extra `app`."""
    from mage_kit.demo_page import serve

    serve(run, host=host, port=port, ema=weights is Weights.ema, allow_hosts=tuple(allow_host or ()))
