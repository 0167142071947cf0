"""The results of runs in one table; the paper's figure beside one of ours only where data and protocol are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json
from mage_kit.store.folders import RECIPE_FILE, require_folder

AUDIT_FILE = "audit.json"
_AUDITED = ("psnr", "ssim", "codes_used", "perplexity", "entropy_bits")
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
        protocol: How it was measured, or what speaks against comparing it.
        data: On which images.
        images: How many it was measured on; None where the result does not say.
        weights: "raw" or "ema"; "" where there is no choice.
        weights_sha256: Of the weights.
        paper: The paper's figure, where data and protocol are the same; None elsewhere.
        comparable: Why there is no such figure, or that it is one.
    """

    run: str
    measure: str
    row: str
    name: str
    value: float
    std: float | None
    protocol: str
    data: str
    images: int | None
    weights: str
    weights_sha256: str
    paper: float | None
    comparable: str

    @property
    def told(self) -> str:
        """The value and its deviation, small ones with the digits that they have."""
        return _number(self.value) + (f" ± {_number(self.std)}" if self.std is not None else "")

    @property
    def about(self) -> str:
        """What it was measured by and on, in one line."""
        count = "" if self.images is None else f"; {self.images:,} images"
        return f"{self.protocol}; {self.data}{count}" + (f"; {self.weights} weights" if self.weights else "")


def gather(runs: Sequence[Path]) -> list[Line]:
    """Return the results of runs, RUN/eval/*.json of each, and of audits, audit.json.

    Raises:
        MageKitError: If a run has none, or a file is damaged.
    """
    lines: list[Line] = []
    for run in runs:
        require_folder(run)
        files = sorted((run / "eval").glob("*.json")) if (run / "eval").is_dir() else []
        files += [file for place in (run, run / "eval" / "audit") if (file := place / AUDIT_FILE).is_file()]
        found = [line for file in files for line in _lines(run, file)]
        if not found:
            raise MageKitError(f"'{run}': has no results; mage-kit eval makes some")
        lines += found
    return lines


def as_json(lines: Sequence[Line]) -> dict[str, Any]:
    """Return them ready for JSON."""
    return {"results": [asdict(line) for line in lines]}


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def _lines(run: Path, file: Path) -> list[Line]:
    held = read_json(file)
    rows = held.get("rows")
    if rows is None and file.name == "accuracy.json":  # as training leaves it
        rows, held = held, {"protocol": "evaluation views, float32", "data": "the recipe's validation images"}
    if rows is None and file.name == AUDIT_FILE:
        numbers = {name: float(held[name]) for name in _AUDITED if name in held}
        rows = {"reconstructions": numbers}
        held = {**held, "protocol": "audit of the tokenizer", "weights_sha256": held.get("tokenizer_sha256", "")}
    if not isinstance(rows, dict):
        raise MageKitError(f"{file}: holds no rows of results")
    measure = str(held.get("kind", file.stem))
    return [
        Line(
            str(run), measure, row, name, value, std, *_said(held, row, inner), *_paper(run, file.stem, row, name, held)
        )
        for row, name, value, std, inner in _figures(rows)
    ]


def _said(held: dict[str, Any], row: str, inner: dict[str, Any]) -> tuple[str, str, int | None, str, str]:
    """Return protocol, data, images, weights and their hash, as a result tells them, or a part of it."""
    protocol = "; ".join(str(held[name]) for name in ("name", "protocol") if held.get(name))
    reference = held.get("reference") or {}
    data = inner.get("data") or held.get("data") or (f"against {reference['name']}" if "name" in reference else "")
    images = next((each[name] for each in (inner, held) for name in ("test_images", "images") if name in each), None)
    weights = row if row in ("raw", "ema") else str(held.get("weights", ""))
    digest = held.get("weights_sha256") or held.get("tokenizer_sha256") or ""
    return protocol, str(data or "data not told"), images, weights, str(digest)


Figure = tuple[str, str, float, float | None, dict[str, Any]]
"""Row, name of the figure, value, deviation, and what the row's result says of itself."""


def _figures(rows: dict[str, Any], before: str = "", about: dict[str, Any] | None = None) -> Iterator[Figure]:
    """Yield everything that was measured, however deep it stands, each figure once."""
    about = about or {}
    for name, value in rows.items():
        row = f"{before} {name}".strip()
        if isinstance(value, dict) and "mean" in value:
            yield before, name, float(value["mean"]), float(value["std"]), about
        elif isinstance(value, dict) and "top1" in value:
            said = {**about, **value}
            inners = [inner for inner in ("by_shots", "by_k") if inner in value]
            for inner in inners:
                for count, each in value[inner].items():
                    numbers = each if isinstance(each, dict) else {"top1": each}
                    yield f"{row}, {inner[3:]} {count}", "top1", float(numbers["top1"]), numbers.get("std"), said
            if not inners:  # else the headline is one of these
                yield row, "top1", float(value["top1"]), value.get("std"), said
            for other in ("top5", "train_top1", "loss"):
                if other in value:
                    yield row, other, float(value[other]), None, said
        elif isinstance(value, dict):
            yield from _figures(value, row, {**about, **value})
        elif isinstance(value, float) and before:
            yield before, name, value, None, about


def _paper(run: Path, measure: str, row: str, name: str, held: dict[str, Any]) -> tuple[float | None, str]:
    """Return the paper's figure and a word on it."""
    if name != "top1" or row != "features" or not held.get("as_published"):
        return None, "no figure of the paper's is of this protocol"
    if (held.get("train_images"), held.get("test_images")) != _IMAGENET:
        return None, "other data than the paper's (ImageNet-1K)"
    recipe = read_json(run / RECIPE_FILE) if (run / RECIPE_FILE).is_file() else {}
    width = (recipe.get("model") or {}).get("encoder", {}).get("dim")
    contrasts = any(loss.get("kind") == "info_nce" for loss in (recipe.get("model") or {}).get("losses", []))
    figure = _PAPER.get((width, contrasts)) if measure == "probe" else None
    if figure is None:
        return None, f"the paper has no figure of this measure and width ({width})"
    return figure, "the paper's Table 2: same data and protocol, 1600 epochs of pre-training"
