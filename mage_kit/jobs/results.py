"""The results of runs in one table; the paper's figure beside one of ours only where data and protocol are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mage_kit.errors import MageKitError
from mage_kit.files import read_json
from mage_kit.storage import RECIPE_FILE, require_folder

_IMAGENET = (1_281_167, 50_000)
_PAPER = {(768, False): 0.747, (1024, False): 0.789, (768, True): 0.782, (1024, True): 0.809}
"""Linear probing on ImageNet-1K, top-1, by the encoder's width and whether it is MAGE-C: the paper's Table 2."""


@dataclass(frozen=True)
class Line:
    """A figure.

    Args:
        run: Its folder.
        measure: What was measured, as "knn".
        row: Of what, as "mean".
        name: Of the figure, as "top1" or "frechet".
        value: The figure.
        std: Its deviation, where it is a mean.
        about: Protocol, data, or what speaks against comparing it.
        paper: The paper's figure, where data and protocol are the same; None elsewhere.
        comparable: Why there is no such figure, or that it is one.
    """

    run: str
    measure: str
    row: str
    name: str
    value: float
    std: float | None
    about: str
    paper: float | None
    comparable: str


def gather(runs: Sequence[Path]) -> list[Line]:
    """Return the results of runs, RUN/eval/*.json of each.

    Raises:
        MageKitError: If a run has none, or a file is damaged.
    """
    lines: list[Line] = []
    for run in runs:
        require_folder(run)
        files = sorted((run / "eval").glob("*.json")) if (run / "eval").is_dir() else []
        found = [line for file in files for line in _lines(run, file)]
        if not found:
            raise MageKitError(f"'{run}': has no results; mage-kit eval makes some")
        lines += found
    return lines


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Return them ready for JSON."""
    return {"results": [asdict(line) for line in lines]}


def _lines(run: Path, file: Path) -> list[Line]:
    held = read_json(file)
    rows = held.get("rows")
    if rows is None and file.name == "accuracy.json":  # as training leaves it
        rows, held = held, {"protocol": "the recipe's validation images"}
    if not isinstance(rows, dict):
        return []
    about = str(held.get("name") or held.get("protocol") or held.get("data") or "")
    measure = str(held.get("kind", file.stem))
    return [
        Line(str(run), measure, row, name, value, std, about, *_paper(run, file.stem, row, name, held))
        for row, name, value, std in _figures(rows)
    ]


def _figures(rows: dict[str, Any], before: str = "") -> Iterator[tuple[str, str, float, float | None]]:
    """Yield (row, figure, value, deviation) of everything that was measured, however deep it stands."""
    for name, value in rows.items():
        if isinstance(value, dict) and "mean" in value:
            yield before, name, float(value["mean"]), float(value["std"])
        elif isinstance(value, dict) and "top1" in value:
            row = f"{before} {name}".strip()
            yield row, "top1", float(value["top1"]), value.get("std")
            for inner in ("by_shots", "by_k"):
                for count, each in value.get(inner, {}).items():
                    numbers = each if isinstance(each, dict) else {"top1": each}
                    yield f"{row}, {inner[3:]} {count}", "top1", float(numbers["top1"]), numbers.get("std")
            if "loss" in value:
                yield row, "loss", float(value["loss"]), None
        elif isinstance(value, dict):
            yield from _figures(value, f"{before} {name}".strip())
        elif isinstance(value, float) and before:
            yield before, name, value, None


def _paper(run: Path, measure: str, row: str, name: str, held: dict[str, Any]) -> tuple[float | None, str]:
    """Return the paper's figure and a word on it."""
    if name != "top1" or row != "features" or not held.get("as_published"):
        return None, "no figure of the paper's is of this protocol"
    if (held.get("train_images"), held.get("test_images")) != _IMAGENET:
        return None, "other data than the paper's (ImageNet-1K)"
    recipe = read_json(run / RECIPE_FILE) if (run / RECIPE_FILE).is_file() else {}
    width = recipe.get("model", {}).get("encoder", {}).get("dim")
    contrasts = any(loss.get("kind") == "info_nce" for loss in recipe.get("losses", []))
    figure = _PAPER.get((width, contrasts)) if measure == "probe" else None
    if figure is None:
        return None, f"the paper has no figure of this measure and width ({width})"
    return figure, "the paper's Table 2: same data and protocol, 1600 epochs of pre-training"
