"""Generated and reconstructed images against real ones; tokenizers audited; results gathered."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import is_first
from mage_kit.cli.app import OverwriteOption, RunArgument, app, console
from mage_kit.cli.decoding_options import DecodingOptions, SeedOption, Weights, WeightsOption
from mage_kit.cli.evaluating import evaluate
from mage_kit.cli.groups import grouped
from mage_kit.cli.processes import ProcessesOption, spread_out

if TYPE_CHECKING:
    from mage_kit.evaluation.generation_metrics import Extractor


class Values(StrEnum):
    """What an extractor takes."""

    bytes = "bytes"
    unit = "unit"
    signed = "signed"


ExtractorOption = Annotated[
    Path | None,
    typer.Option(help="Your Inception file, TorchScript or .pt2, named by its SHA-256. It is run: trust it."),
]
SideOption = Annotated[int, typer.Option(min=0, help="Pixels a side that the extractor takes; 0: the images' own.")]
ValuesOption = Annotated[Values, typer.Option(help="What it takes: bytes 0 to 255, unit 0 to 1, signed -1 to 1.")]
_NONE = (
    "--extractor: none given, so there is no FID: it is a distance of Inception's features, and no such file comes "
    "with this program or is downloaded; name your own TorchScript or .pt2 file"
)


@evaluate.command()
def reference(
    folder: Annotated[Path, typer.Argument(help="Folder of real images, PNG, at the model's size.")],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    extractor: ExtractorOption = None,
    width: Annotated[int, typer.Option(min=1, help="Of the model's images.")] = 256,
    height: Annotated[int, typer.Option(min=1, help="Of the model's images.")] = 256,
    grey: Annotated[bool, typer.Option("--grey", help="The model's images are grey.")] = False,
    side: SideOption = 299,
    values: ValuesOption = Values.bytes,
    name: Annotated[str | None, typer.Option(help="Of the set; default the folder's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take lossy, mixed or resized files all the same.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a reference set: features of real images, and a manifest of what they are."""
    from mage_kit.base.files import check_writable
    from mage_kit.base.progress import Reporter
    from mage_kit.evaluation.generation_metrics import make_reference

    if out.suffix != ".safetensors":
        raise MageKitError(f"out: '{out}', must be named .safetensors")
    if out.exists() and not overwrite:
        raise MageKitError(f"out: '{out}', exists; choose another or give --overwrite")
    check_writable(out)
    seen_by = _extractor(extractor, side, values)
    made = make_reference(
        folder,
        out,
        seen_by,
        size=(height, width),
        channels=1 if grey else 3,
        name=name,
        force=force,
        reporter=Reporter(),
    )
    told = {key: value for key, value in made.manifest.items() if key != "extractor"}
    console.print(json.dumps(told, indent=2), markup=False, highlight=False)
    console.print(f"written: {out}", markup=False, soft_wrap=True)


@evaluate.command()
@grouped
def fid(
    run: RunArgument,
    *,
    reference: Annotated[Path | None, typer.Option(help="As written by mage-kit eval reference.")] = None,
    extractor: ExtractorOption = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Images to generate.")] = 50_000,
    seed: SeedOption = 0,
    class_: Annotated[list[int] | None, typer.Option("--class", help="Of class-conditional runs.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Images at once.")] = 64,
    side: SideOption = 299,
    values: ValuesOption = Values.bytes,
    decoding: DecodingOptions,
    weights: WeightsOption = Weights.raw,
    overwrite: OverwriteOption = False,
    count: ProcessesOption = None,
) -> None:
    """gFID, IS, KID, precision and recall of generated images; fewer than 10,000 are a smoke figure."""
    from mage_kit.base import processes
    from mage_kit.base.progress import Reporter
    from mage_kit.evaluation.generation_metrics import read_reference
    from mage_kit.evaluation.image_quality import generated_quality
    from mage_kit.evaluation.published_probe import keep, result_file
    from mage_kit.store.folders import best_device
    from mage_kit.store.loading import load

    target = result_file(run, "fid", overwrite)
    if extractor is None:
        raise MageKitError(_NONE)
    if reference is None:
        raise MageKitError("--reference: none given; make one of real images: mage-kit eval reference DIR --out FILE")
    spread_out(count)
    processes.start(best_device())  # before anything is on a device: each process has its own
    seen_by = _extractor(extractor, side, values)
    model = processes.first_ahead(lambda: load(run, best_device(), weights=weights.value))
    real = read_reference(reference, seen_by, model.tokenizer.image_size, model.tokenizer.channels)
    result = generated_quality(
        model,
        real,
        seen_by,
        n,
        seed=seed,
        labels=class_,
        weights=weights.value,
        batch=batch,
        changes=decoding.changes(),
        reporter=Reporter() if is_first() else Reporter.silent(),
    )
    keep(target, {"run": str(run), **result})
    _quality(result)


@evaluate.command()
def rfid(
    source: Annotated[Path, typer.Argument(help="Tokenizer, run or model folder, or a published checkpoint.")],
    data: Annotated[Path, typer.Option(help="Folder of images.")],
    extractor: ExtractorOption = None,
    side: SideOption = 299,
    values: ValuesOption = Values.bytes,
    out: Annotated[Path | None, typer.Option(help="JSON file; default eval/rfid.json in the folder.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """rFID of a tokenizer: its reconstructions against the images."""
    from mage_kit.base.files import check_writable, write_json
    from mage_kit.base.progress import Reporter
    from mage_kit.evaluation.image_quality import reconstructed_quality, tokenizer_and_images

    if source.is_file() and out is None:
        raise MageKitError("--out: none given; of a checkpoint file the result needs a place: name one")
    target = out or source / "eval" / "rfid.json"
    if target.exists() and not overwrite:
        raise MageKitError(f"out: '{target}', exists; choose another or give --overwrite")
    seen_by = _extractor(extractor, side, values)
    tokenizer, images = tokenizer_and_images(source, data)
    check_writable(target)
    result = {"data": str(data), **reconstructed_quality(tokenizer, images, seen_by, reporter=Reporter())}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, result)
    _quality(result)


@app.command()
def audit(
    source: Annotated[Path, typer.Argument(help="Tokenizer, run or model folder, or a published checkpoint.")],
    data: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; default eval/audit in the folder.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Is a tokenizer fit for these images? PSNR, SSIM, codes used, the worst images, and a verdict in words."""
    from mage_kit.base.progress import Reporter
    from mage_kit.evaluation.audit import audit_files

    if source.is_file() and out is None:
        raise MageKitError("--out: none given; of a checkpoint file the result needs a place: name one")
    out = out or source / "eval" / "audit"
    result = audit_files(source, data, out, overwrite=overwrite, reporter=Reporter())
    table = Table("measure", "value", title=str(source))
    for name, value in result.items():
        if isinstance(value, int | float):
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    console.print(table)
    console.print(result["verdict"], markup=False)
    console.print(f"written: {out}", markup=False, soft_wrap=True)


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
        table = Table("measure", "of", "figure", "value", *(["paper"] if papers else []), "note", title=escape(run))
        for line in lines:
            if line.run == run:
                paper = [f"{line.paper:.4f}" if line.paper is not None else "-"] if papers else []
                cells = (line.measure, line.row, line.name, line.told, *paper, str(notes.index(line.about) + 1))
                table.add_row(*(escape(cell) for cell in cells))
        console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"{number}: {note}", markup=False, highlight=False, soft_wrap=True)
    if not papers:
        rule = "none is of the paper's data and protocol; why, for each, is in the file of --out"
        console.print(f"The paper's figures stand beside none of these: {rule}.", markup=False, soft_wrap=True)
    if out is not None:
        write_json(out, as_json(lines))
        console.print(f"written: {out}", markup=False, soft_wrap=True)


def _extractor(file: Path | None, side: int, values: Values) -> Extractor:
    from mage_kit.evaluation.generation_metrics import load_extractor
    from mage_kit.store.folders import best_device

    if file is None:
        raise MageKitError(_NONE)
    return load_extractor(file, side=side or None, values=values.value, device=best_device())


def _quality(result: dict[str, object]) -> None:
    if not is_first():
        return
    rows = result["rows"]
    assert isinstance(rows, dict)
    table = Table("measure", "value", title=str(result["name"]))
    for name, value in rows["images"].items():
        if isinstance(value, dict):
            table.add_row(name.replace("_", " "), f"{value['mean']:.5g} ± {value['std']:.2g}")
        elif value is not None:
            table.add_row("Fréchet distance" if name == "frechet" else name, f"{value:.5g}")
    console.print(table)
    extractor, compared = result["extractor"], result["reference"]
    assert isinstance(extractor, dict) and isinstance(compared, dict)
    told = f"extractor {extractor['name']}, SHA-256 {extractor['sha256']}"
    told += f"; reference {compared['name']}, {compared['count']} images"
    console.print(told, markup=False, highlight=False, soft_wrap=True)
