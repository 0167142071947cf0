"""What was measured of a run, RUN/eval/*.json, as tables and charts of its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.evaluation.curves import block_curves, shot_curves
from mage_kit.report.charts import Chart, series_chart
from mage_kit.report.content import Part, picture

_TITLES = {
    "accuracy": "Accuracy on the validation images",
    "accuracy-again": "Accuracy, measured again",
    "probe": "Linear probe",
    "probe-fast": "Linear probe, fast",
    "blocks": "Linear probe by block",
    "knn": "k-NN",
    "fewshot": "Few-shot",
    "transfer": "Transfer",
    "fid": "Generated images",
    "rfid": "Reconstructions",
}


def evaluations(run: Path) -> list[Part]:
    """Return a section for each result that there is.

    Raises:
        MageKitError: If a file holds no result.
    """
    folder = run / "eval"
    parts = [
        _part(title, name, file, read_json(file))
        for name, title in _TITLES.items()
        if (file := folder / f"{name}.json").is_file()
    ]
    if (folder / "audit" / "audit.json").is_file():
        parts.append(_audit(folder / "audit"))
    return parts


def _part(title: str, name: str, file: Path, held: dict[str, Any]) -> Part:
    rows = held.get("rows", held)
    if not isinstance(rows, dict):
        raise MageKitError(f"{file}: holds no rows of results")
    if name == "probe":
        title += ", published protocol" if held.get("as_published") else ", NOT as published"
    note = "; ".join(str(held[key]) for key in ("name", "protocol") if held.get(key))
    if "data" in held:
        note += f". Data: {held['data']}"
    part = Part(title, f"{note}." if note else "")
    for what, values in rows.items():
        if isinstance(values, dict):
            part.rows += [(f"{what} {row}".strip(), text) for row, text in _cells(values)]
    chart = _chart(name, rows)
    if chart is not None:
        part.charts.append(chart)
    return part


def _audit(folder: Path) -> Part:
    """Return the tokenizer's audit with its picture."""
    held = read_json(folder / "audit.json")
    part = Part("Audit of the tokenizer", f"{held['verdict']} Data: {held['data']}.")
    for name in ("psnr", "ssim", "images", "broken", "codes", "codes_used", "perplexity", "entropy_bits"):
        if name in held:
            value = held[name]
            part.rows.append((name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4g}"))
    if (folder / "worst.png").is_file():
        with Image.open(folder / "worst.png") as worst:
            part.figures.append(picture(worst, "The worst images and their reconstructions"))
    return part


def _cells(values: dict[str, Any]) -> list[tuple[str, str]]:
    if "by_shots" in values:
        return [(f"{n} a class", f"{each['top1']:.4f} ± {each['std']:.4f}") for n, each in values["by_shots"].items()]
    if "top1" in values:
        deviation = f" ± {values['std']:.4f}" if "std" in values else ""
        return [("", f"{values['top1']:.4f}{deviation}")]
    made = []
    for name, value in values.items():
        if isinstance(value, dict) and "mean" in value:
            made.append((name.replace("_", " "), f"{value['mean']:.5g} ± {value['std']:.2g}"))
        elif isinstance(value, dict) and "top1" in value:
            made.append((name.replace("_", " "), f"{value['top1']:.4f} ± {value.get('std', 0):.4f}"))
        elif isinstance(value, float):
            made.append((name.replace("_", " "), f"{value:.5g}"))
    return made


def _chart(name: str, rows: dict[str, Any]) -> Chart | None:
    if name == "blocks":
        return series_chart("Linear probe after each block", "block", block_curves(rows))
    if name == "fewshot":
        return series_chart("Top-1 from a few labels", "labelled images of each class", shot_curves(rows))
    return None
