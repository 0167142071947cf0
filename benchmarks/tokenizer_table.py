"""The page of the tokenizers' benchmark: a table, what it comes to, and the same held-out crops by each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mage_kit.base.files import write_text
from mage_kit.images.pictures import labelled_sheets, save_picture

KINDS = ("squeezenet", "efficientnet_lite0")
_GOAL = 0.7  # of the squared error's distance
_HEAD = (
    "| loss | seed | steps | bits an image | PSNR | SSIM | colours | codes used | perplexity "
    "| SqueezeNet-1.1 | EfficientNet-Lite0 | seconds |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def write_page(found: Sequence[dict[str, Any]], facts: dict[str, Any], results: Path, rows: int) -> Path:
    """Write table.md and crops.png; return the table's path.

    Args:
        found: Figures of the rows that were run.
        facts: Of the crops.
        results: Folder of the rows' strips, and of what is written.
        rows: How many there are in all.
    """
    training, held_out = facts["training"], facts["held_out"]
    text = (
        f"{len(found)} of {rows} rows have been run. Crops of 64 pixels: {training['crops']:,} of "
        f"{training['photographs']} photographs to train on, {held_out['crops']:,} of {held_out['photographs']} others "
        "to judge on. The two columns by network are Fréchet distances of held-out reconstructions, no FID; "
        "a star: a loss of this row was computed by that network. Seconds are the training's, on two cores, at its "
        "median rate.\n\n"
    )
    text += _HEAD + "".join(_line(row) for row in found)
    if found:
        floors = {kind: row["floor"] for kind, row in found[0]["frechet"].items() if row}
        text += f"| one half of the images from the other | | | | | | | | | {_floors(floors)} | |\n"
    text += "".join(f"\n{line}\n" for line in (*verdicts(found), *_models(found)))
    table = results / "table.md"
    write_text(table, text)
    sheets = [("held-out crops", results / "images.png")]
    sheets += [(row["label"], results / f"{row['row']}.png") for row in found if row["seed"] == 0]
    sheets += [
        (f"generated: {row['label']}", results / f"{row['row']}-generated.png") for row in found if "model" in row
    ]
    pictures = [(label, Image.open(file)) for label, file in sheets if file.is_file()]
    if pictures:
        save_picture(labelled_sheets(pictures), results / "crops.png")
    return table


def verdicts(found: Sequence[dict[str, Any]]) -> list[str]:
    """Compare the whole objective with squared error at its best rate, over seeds, by the network that no loss used."""
    plain = [row for row in found if row["training"]["kind"] == "reconstruct" and row["row"].startswith("squared-")]
    if not plain:
        return []
    rates = [row for row in plain if row["seed"] == 0]
    best = max(rates, key=lambda row: row["reconstructions"]["psnr"])
    rate = best["training"]["lr"]
    base = [row for row in plain if row["training"]["lr"] == rate]
    lines = [f"Squared error's best rate of {len(rates)} is {rate:g} ({best['reconstructions']['psnr']:.2f} dB)."]
    for kind in KINDS:
        judge = next(other for other in KINDS if other != kind)
        full = [row for row in found if row["training"]["kind"] == "adversarial" and _network(row) == kind]
        if not full:
            continue
        mine, theirs = (_mean(part, "frechet", judge, "value") for part in (full, base))
        fall = _mean(base, "reconstructions", "psnr") - _mean(full, "reconstructions", "psnr")
        ratio = mine / theirs
        lines.append(
            f"With {kind} and an adversary ({len(full)} seeds, squared error {len(base)}), by the other network: "
            f"{ratio:.2f} of squared error's distance ({'within' if ratio <= _GOAL else 'above'} {_GOAL}), "
            f"PSNR {-fall:+.2f} dB."
        )
    return lines


def _models(found: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"MAGE on the tokens of {row['label']}: loss {row['model']['loss_first']:.2f} to {row['model']['loss']:.2f} in "
        f"{row['model']['epochs']} epochs, chance {row['model']['chance']:.2f}."
        for row in found
        if "model" in row
    ]


def _mean(rows: Sequence[dict[str, Any]], *path: str) -> float:
    values = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value[name]
        values.append(float(value))
    return float(np.mean(values))


def _network(row: dict[str, Any]) -> str | None:
    form = row["training"].get("perceptual")
    return None if form is None else str(form["kind"])


def _line(row: dict[str, Any]) -> str:
    figures = row["reconstructions"]
    judged = [
        f"{row['frechet'][kind]['value']:.2f}{'*' if _network(row) == kind else ''}"
        if row["frechet"].get(kind)
        else "-"
        for kind in KINDS
    ]
    codes = f"{figures['codes_used']:,} of {row['codes']:,}"
    return (
        f"| {row['label']} | {row['seed']} | {row['steps']:,} | {row['bits']:,.0f} | {figures['psnr']:.2f} "
        f"| {figures['ssim']:.3f} | {figures['chroma_correlation']:.3f} | {codes} "
        f"| {figures['perplexity']:,.0f} | {judged[0]} | {judged[1]} | {row['seconds']:,.0f} |\n"
    )


def _floors(floors: dict[str, float]) -> str:
    return " | ".join(f"{floors[kind]:.2f}" if kind in floors else "-" for kind in KINDS)
