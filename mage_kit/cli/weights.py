"""Commands for published weights: in, out, and classifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mage_kit.cli.app import OverwriteOption, app, console


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch, safetensors or flax file, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    vqgan: Annotated[Path | None, typer.Option(help="The tokenizer's file, where the checkpoint holds none.")] = None,
    layout: Annotated[str | None, typer.Option(help="Layout, where the tensors' names do not tell.")] = None,
    weights: Annotated[str | None, typer.Option(help="Key of the weights, where a file has several.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What stands before the weights' names, if several do.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Pixels, as 256 or 256x384; resizes positions.")] = None,
    encoder_heads: Annotated[int | None, typer.Option(min=1, help="Default: by the published width.")] = None,
    decoder_heads: Annotated[int | None, typer.Option(min=1, help="Default: by the published width.")] = None,
    padding: Annotated[str, typer.Option(help="class_token, or mask_token if trained so.")] = "class_token",
    ignore: Annotated[list[str] | None, typer.Option(help="Prefix of tensors to leave unused.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Turn a published checkpoint into a folder: model, classifier, or tokenizer."""
    from mage_kit.cli.opening import read_size
    from mage_kit.store.convert import convert as run

    result = run(
        checkpoint,
        out,
        layout=layout,
        weights=weights,
        prefix=prefix,
        vqgan=vqgan,
        image_size=None if image_size is None else read_size("image-size", image_size),
        encoder_heads=encoder_heads,
        decoder_heads=decoder_heads,
        padding=padding,
        ignore=tuple(ignore or ()),
        overwrite=overwrite,
    )
    card = result.card
    if card["unused"]:
        table = Table("unused tensor", "shape", "values", "why", title="Kept beside, in legacy.safetensors")
        for item in _table_rows(card["unused"]):
            table.add_row(*item)
        console.print(table)
    hashes = ", ".join(
        f"{source['file']}{':' + source['weights_under'] if source['weights_under'] else ''} "
        f"(sha256 {source['sha256'][:16]})"
        for source in card["sources"]
    )
    console.print(
        f"{result.what} in layout {card['layout']} from {hashes}: {card['tensors']} tensors, "
        f"{card['values']:,} values, of which {card['values_loaded']:,} loaded\n"
        f"image size {card['image_size'][0]}x{card['image_size'][1]} (from {card['image_size_from']})\n"
        f"written: {result.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Model, run, classifier or tokenizer folder.")],
    out: Annotated[Path, typer.Option(help="File: .pth, .pt, .ckpt or .safetensors.")],
    part: Annotated[str, typer.Option(help="model, tokenizer, or encoder (under a plain ViT's names).")] = "model",
    layout: Annotated[
        str | None, typer.Option(help="vqgan, taming, llamagen, mage, mage_classifier: that or an error.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Rows x columns for the encoder's positions, as 24x24.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model in the published layout, or its encoder as a plain ViT."""
    from mage_kit.cli.opening import read_size
    from mage_kit.store.export import export as run

    size = None if grid is None else read_size("grid", grid)
    report = run(folder, out, part=part, layout=layout, grid=size, overwrite=overwrite)  # type: ignore[arg-type]  # checked there
    lines = [f"layout {report.layout}: {report.tensors} tensors, {report.values:,} values, {', '.join(report.dtypes)}"]
    if report.filled:
        lines.append("filled, as nothing trained here stands for it: " + "; ".join(report.filled))
    if report.left_out:
        lines.append("left out, the layout has no room for it: " + ", ".join(report.left_out))
    if report.flags:
        lines.append("no tensor of the file tells it: converting it again needs " + " ".join(report.flags))
    console.print("\n".join([*lines, f"written: {report.file}"]), soft_wrap=True)


@app.command()
def classify(
    source: Annotated[Path, typer.Argument(help="Classifier folder, as convert writes it.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 5,
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Classify image files: the likeliest classes by number, with their probabilities."""
    from mage_kit.evaluation.classify_files import classify_files

    likeliest = classify_files(source, images, top)
    if json_out:
        typer.echo(json.dumps(likeliest, indent=2))
        return
    table = Table("image", "class: probability")
    for file, classes in likeliest.items():
        table.add_row(file, "  ".join(f"{number}: {share:.3f}" for number, share in classes))
    console.print(table)


def _table_rows(tensors: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Rows of the table; many tensors of one reason and one first name become one row."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for item in tensors:
        groups.setdefault((item["name"].split(".")[0], item["reason"]), []).append(item)
    rows = []
    for (root, reason), items in groups.items():
        if len(items) > 4:
            values = sum(item["values"] for item in items)
            rows.append((f"{root}.*", f"{len(items)} tensors", f"{values:,}", reason))
            continue
        rows += [(item["name"], str(item["shape"]), f"{item['values']:,}", reason) for item in items]
    return rows
