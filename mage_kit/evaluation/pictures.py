"""Pictures of results: grids of images with labels, curves, terminal bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from mage_kit.errors import MissingExtraError
from mage_kit.storage import atomic

GAP = 2


def grid_picture(images_BCHW: Tensor, columns: int, *, scale: int = 1) -> Image.Image:
    """Lay images out row by row, white lines between them.

    Args:
        images_BCHW: float images in [0, 1], 1, 3 or 4 channels.
        columns: Images a row.
        scale: Whole factor by which pixels are enlarged.
    """
    array = (images_BCHW.detach().cpu().float().clamp(0, 1) * 255).byte().numpy()
    count, channels, height, width = array.shape
    rows = -(-count // columns)
    missing = np.full((rows * columns - count, channels, height, width), 255, dtype=np.uint8)
    cells = np.concatenate([array, missing]).repeat(scale, axis=2).repeat(scale, axis=3)
    padded = np.pad(cells, ((0, 0), (0, 0), (0, GAP), (0, GAP)), constant_values=255)
    sheet = rearrange(padded, "(r c) k h w -> (r h) (c w) k", r=rows)[:-GAP, :-GAP]
    return Image.fromarray(np.ascontiguousarray(sheet[:, :, 0] if channels == 1 else sheet))


def labelled_rows(rows: Sequence[tuple[str, Tensor]], *, scale: int = 1) -> Image.Image:
    """Stack rows of images, each with a line of text above it."""
    sheets = [(text, grid_picture(images, len(images), scale=scale).convert("RGB")) for text, images in rows]
    line = 16
    height = sum(sheet.height + line + GAP for _, sheet in sheets)
    canvas = Image.new("RGB", (max(sheet.width for _, sheet in sheets), height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for text, sheet in sheets:
        draw.text((2, top + 2), text, fill="black")
        canvas.paste(sheet, (0, top + line))
        top += sheet.height + line + GAP
    return canvas


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all."""
    with atomic(path) as temporary:
        image.save(temporary, format="PNG")


def plot_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a run's curves: loss against chance, by mask ratio, accuracy, the tokenizer's error, the learning rate.

    Args:
        records: Lines of metrics.jsonl.
        path: PNG to write.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _figure(2, 2)
    model = [record for record in records if record["stage"] == "model"]
    tokenizer = [record for record in records if record["stage"] == "tokenizer"]
    steps = [record["step"] for record in model]
    loss, by_ratio, accuracy, codes = axes.flat
    if model:
        loss.plot(steps, [record["loss"] for record in model], label="loss")
        if "chance" in model[0]:
            loss.axhline(model[0]["chance"], color="grey", linestyle="--", label="chance, ln K")
        for name in sorted({name for record in model for name in record["by_ratio"]}):
            found = [(record["step"], record["by_ratio"][name]) for record in model if name in record["by_ratio"]]
            by_ratio.plot([step for step, _ in found], [item["loss"] for _, item in found], label=f"ratio {name}")
            accuracy.plot([step for step, _ in found], [item["accuracy"] for _, item in found], label=f"ratio {name}")
    if tokenizer:
        codes.plot(
            [record["step"] for record in tokenizer],
            [record["mse"] for record in tokenizer],
            label="mean squared error",
        )
        codes.set_yscale("log")
    for axis, title in zip(
        axes.flat,
        ("training loss", "loss by mask ratio", "accuracy on masked tokens", "tokenizer"),
        strict=True,
    ):
        axis.set_title(title)
        axis.set_xlabel("step")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    _write(figure, path)


def plot_line(xs: Sequence[float], ys: Sequence[float], title: str, labels: tuple[str, str], path: Path) -> None:
    """Draw one line or histogram outline to a PNG; labels name the axes."""
    figure, axes = _figure(1, 1)
    axes[0, 0].step(xs, ys, where="mid")
    axes[0, 0].set_title(title)
    axes[0, 0].set_xlabel(labels[0])
    axes[0, 0].set_ylabel(labels[1])
    _write(figure, path)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingExtraError("plotting", "report") from None
    return plt.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows), squeeze=False, layout="constrained")


def _write(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def bars(names: Sequence[str], values: Sequence[float], width: int = 50) -> list[str]:
    """Return lines of text bars, the largest value `width` characters long."""
    top = max(max(values, default=0.0), 1e-12)
    pad = max(len(name) for name in names)
    return [
        f"{name:>{pad}} {'█' * round(width * value / top)} {value:g}" for name, value in zip(names, values, strict=True)
    ]
