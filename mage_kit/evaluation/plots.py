"""Plots: a run's curves, a distribution, text bars for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mage_kit.base.errors import MissingExtraError
from mage_kit.base.files import atomic


def plot_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a run's curves: loss against chance, by mask ratio, accuracy, the tokenizer's error.

    Args:
        records: Lines of metrics.jsonl.
        path: PNG to write.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = new_figure(2, 2)
    model = [record for record in records if record["stage"] == "model"]
    tokenizer = [record for record in records if record["stage"] == "tokenizer"]
    steps = [record["step"] for record in model]
    loss, by_ratio, accuracy, codes = axes.flat
    if model:
        loss.plot(steps, [record["loss"] for record in model], label="loss")
        if "chance" in model[0]:
            loss.axhline(model[0]["chance"], color="grey", linestyle="--", label="chance, ln K")
        for name in sorted({name for record in model for name in record["by_ratio"]}):
            points = [(record["step"], record["by_ratio"][name]) for record in model if name in record["by_ratio"]]
            by_ratio.plot([step for step, _ in points], [item["loss"] for _, item in points], label=f"ratio {name}")
            if all("accuracy" in item for _, item in points):
                accuracy.plot(
                    [step for step, _ in points], [item["accuracy"] for _, item in points], label=f"ratio {name}"
                )
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
    write_figure(figure, path)


def plot_line(xs: Sequence[float], ys: Sequence[float], title: str, labels: tuple[str, str], path: Path) -> None:
    """Draw one line or histogram outline to a PNG; labels name the axes."""
    figure, axes = new_figure(1, 1)
    axes[0, 0].step(xs, ys, where="mid")
    axes[0, 0].set_title(title)
    axes[0, 0].set_xlabel(labels[0])
    axes[0, 0].set_ylabel(labels[1])
    write_figure(figure, path)


def new_figure(rows: int, columns: int, height: float = 3.6) -> tuple[Any, Any]:
    """Return a figure of panels, `height` inches a row, and their axes [rows, columns].

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingExtraError("plotting", "report") from None
    return plt.subplots(rows, columns, figsize=(5 * columns, height * rows), squeeze=False, layout="constrained")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, at once, and forget it."""
    import matplotlib.pyplot as plt

    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def figure_image(figure: Any) -> Image.Image:
    """Return a figure as a picture, and forget it."""
    import matplotlib.pyplot as plt

    figure.set_dpi(110)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    plt.close(figure)
    return picture


def bars(names: Sequence[str], values: Sequence[float], width: int = 50) -> list[str]:
    """Return lines of text bars, the largest value `width` characters long."""
    top = max(max(values, default=0.0), 1e-12)
    pad = max(len(name) for name in names)
    return [
        f"{name:>{pad}} {'█' * round(width * value / top)} {value:g}" for name, value in zip(names, values, strict=True)
    ]


def plot_series(
    series: Mapping[str, Sequence[tuple[float, float, float]]], title: str, labels: tuple[str, str], path: Path
) -> None:
    """Draw curves of (x, y, deviation) points, each with its name; labels name the axes."""
    figure, axes = new_figure(1, 1)
    axis = axes[0, 0]
    for name, points in series.items():
        xs, ys, deviations = zip(*points, strict=True)
        axis.errorbar(xs, ys, yerr=deviations if any(deviations) else None, marker="o", capsize=3, label=name)
    axis.set_title(title)
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    axis.locator_params(axis="x", integer=True)  # blocks and images are counted
    axis.legend(fontsize=8)
    write_figure(figure, path)
