"""Charts of a report, each a small SVG that carries no font and loads nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mage_kit.base.errors import MissingExtraError
from mage_kit.mask_ratios import MaskRatio, draw
from mage_kit.schedules import Schedule

_SIZE = (5.2, 3.1)  # inches
_DRAWS = 100_000
_BINS = 40
_NAMED = 12  # classes whose names there is room for
_INK = "#334155"
_FIRST, _SECOND, _MUTED = "#2563eb", "#db6d28", "#94a3b8"


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        title: What it shows.
        svg: SVG text.
    """

    title: str
    svg: str

    @property
    def inline(self) -> str:
        """The SVG element alone, to stand within a page; its identifiers carry the title, so that charts do not
        take each other's."""
        prefix = re.sub(r"\W+", "", self.title)
        element = self.svg[self.svg.index("<svg") :]
        element = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", element)
        return re.sub(r'<svg([^>]*?) width="[^"]*" height="[^"]*"', r"<svg\1", element, count=1)


def training_charts(records: Sequence[dict[str, Any]]) -> list[Chart]:
    """Return the curves of a run's metrics: those that it has, each stage's in turn."""
    losses = [record for record in records if "loss" in record]
    stages = sorted({record["stage"] for record in losses}, key=lambda stage: (stage == "tokenizer", stage))
    charts: list[Chart] = []
    for stage in stages:
        own = [record for record in losses if record["stage"] == stage]
        charts += _tokenizer_charts(own) if stage == "tokenizer" else _model_charts(own, stage)
    return charts


def _model_charts(records: Sequence[dict[str, Any]], stage: str) -> list[Chart]:
    before = "" if stage == "model" else f"{stage}: "
    charts = [_chart(f"{before}Loss", "step", lambda axis: _loss(axis, records))]
    if any("by_ratio" in record for record in records):
        charts.append(_chart(f"{before}Loss by mask ratio", "step", lambda axis: _by_ratio(axis, records, "loss")))
    if any("accuracy" in item for item in records[-1].get("by_ratio", {}).values()):
        title = f"{before}Accuracy on masked tokens, by mask ratio"
        charts.append(_chart(title, "step", lambda axis: _by_ratio(axis, records, "accuracy")))
    return charts + _rates(records, before)


def _tokenizer_charts(records: Sequence[dict[str, Any]]) -> list[Chart]:
    charts = []
    if any("mse" in record for record in records):
        charts.append(_chart("Tokenizer: squared error", "step", lambda axis: _line(axis, records, "mse", log=True)))
    else:
        charts.append(_chart("Tokenizer: loss", "step", lambda axis: _line(axis, records, "loss")))
    if any("codes_used" in record for record in records):
        title = "Tokenizer: codes used in a batch"
        charts.append(_chart(title, "step", lambda axis: _line(axis, records, "codes_used")))
    several = any(name.startswith("objective_") for name in records[-1])
    return charts + (_rates(records, "Tokenizer: ") if several else [])


def classifier_charts(records: Sequence[dict[str, Any]], stage: str = "classifier") -> list[Chart]:
    """Return the curves of a classifier's metrics.

    Args:
        records: Lines of the log.
        stage: Under which its training stands there.
    """
    losses = [record for record in records if record["stage"] == stage and "loss" in record]
    validations = [record for record in records if record["stage"] == "validation"]
    charts: list[Chart] = []
    if losses:
        charts.append(_chart("Loss", "step", partial(_line, records=losses, name="loss")))
        accuracies = [(record["step"], record["accuracy"], 0.0) for record in losses if "accuracy" in record]
        held_out = [(record["step"], record["top1"], 0.0) for record in validations]
        series = {"training, images as they are mixed": accuracies, "validation": held_out}
        series = {name: points for name, points in series.items() if points}
        charts += [series_chart("Accuracy", "step", series)] if series else []
        charts += _rates(losses)
    return charts


def _rates(records: Sequence[dict[str, Any]], before: str = "") -> list[Chart]:
    """Learning rate, speed and gradient; of several players those of each, and their objectives."""
    titles = {"lr": "Learning rate", "images_per_s": "Images a second", "grad_norm": "Gradient norm"}
    for name in records[-1]:
        kind, _, player = name.partition("_") if name.startswith("lr_") else name.rpartition("_")
        words = {"lr": "learning rate", "grad_norm": "gradient norm", "objective": "objective"}.get(kind)
        if words and player and name not in titles:
            titles[name] = f"{player}: {words}"
    return [
        _chart(f"{before}{title}", "step", partial(_line, records=records, name=name)) for name, title in titles.items()
    ]


def confusion_chart(counts_KK: Any, names: Sequence[str]) -> Chart:
    """Return which classes (rows) were taken for which (columns): counts of images."""

    def paint(axis: Any) -> None:
        shares = counts_KK / counts_KK.sum(axis=1, keepdims=True).clip(min=1)
        axis.grid(False)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        if len(names) <= _NAMED:
            axis.set_xticks(range(len(names)), [name[:8] for name in names], fontsize=7)
            axis.set_yticks(range(len(names)), [name[:8] for name in names], fontsize=7)
            for row, column in zip(*counts_KK.nonzero(), strict=True):
                colour = "white" if shares[row, column] > 0.5 else _INK
                axis.text(column, row, str(counts_KK[row, column]), ha="center", va="center", fontsize=6, color=colour)
        axis.set_ylabel("is")

    return _chart("What is taken for what", "is taken for", paint)


def ratio_chart(ratio: MaskRatio) -> Chart:
    """Return the distribution of a mask ratio."""
    ratios = draw(ratio, _DRAWS, torch.Generator().manual_seed(0)).numpy()

    def paint(axis: Any) -> None:
        axis.hist(ratios, bins=_BINS, range=(0, 1), weights=[1 / _DRAWS] * _DRAWS, color=_FIRST)
        axis.set_ylabel("share of images")

    return _chart("Mask ratio in training", "share of tokens masked", paint)


def schedule_chart(schedule: Schedule, tokens: int, steps: int) -> Chart:
    """Return how many tokens are still masked after each decoding step, and how many each step decides."""
    counts = schedule.counts(tokens, steps)
    decisions = [before - after for before, after in zip([tokens, *counts], counts, strict=False)]

    def paint(axis: Any) -> None:
        axis.bar(range(1, steps + 1), decisions, color=_SECOND, label="decided in the step")
        axis.step(range(steps + 1), [tokens, *counts], where="post", color=_FIRST, label="still masked after it")
        axis.legend(frameon=False, fontsize=8)
        axis.set_ylabel("tokens")

    return _chart("Decoding schedule", "step", paint)


def codebook_chart(counts: Sequence[int]) -> Chart:
    """Return how often each code is used, the most frequent first."""
    shares = sorted((count / max(1, sum(counts)) for count in counts), reverse=True)

    def paint(axis: Any) -> None:
        axis.fill_between(range(len(shares)), shares, step="mid", color=_FIRST, linewidth=0)
        axis.axhline(1 / len(shares), color=_MUTED, linestyle="--", label="all codes alike")
        axis.set_ylabel("share of tokens")
        axis.legend(frameon=False, fontsize=8)

    return _chart("Codes by frequency", "code, the most frequent first", paint)


def series_chart(title: str, across: str, series: Mapping[str, Sequence[tuple[float, float, float]]]) -> Chart:
    """Return curves of (x, accuracy, deviation) points by name."""

    def paint(axis: Any) -> None:
        for number, (name, points) in enumerate(series.items()):
            colour, style = (_FIRST, _SECOND, _MUTED)[number % 3], ("-", "--", ":")[number // 3 % 3]
            xs, ys, deviations = zip(*points, strict=True)
            bars = deviations if any(deviations) else None
            axis.errorbar(
                xs, ys, yerr=bars, color=colour, linestyle=style, marker="o", markersize=4, capsize=3, label=name
            )
        if len(series) > 1:
            axis.legend(frameon=False, fontsize=8)
        axis.locator_params(axis="x", integer=True)  # steps, blocks and images are counted
        axis.set_ylabel("top-1")

    return _chart(title, across, paint)


def _loss(axis: Any, records: Sequence[dict[str, Any]]) -> None:
    axis.plot(
        [record["step"] for record in records], [record["loss"] for record in records], color=_FIRST, label="loss"
    )
    if "chance" in records[0]:
        axis.axhline(records[0]["chance"], color=_MUTED, linestyle="--", label="chance, ln K")
    axis.legend(frameon=False, fontsize=8)


def _by_ratio(axis: Any, records: Sequence[dict[str, Any]], what: str) -> None:
    from matplotlib import colormaps

    names = sorted({name for record in records for name in record.get("by_ratio", {})})
    colours = colormaps["viridis"]([0.85 * place / max(1, len(names) - 1) for place in range(len(names))])
    for name, colour in zip(names, colours, strict=True):
        points = [record for record in records if what in record.get("by_ratio", {}).get(name, {})]
        values = [record["by_ratio"][name][what] for record in points]
        axis.plot([record["step"] for record in points], values, color=colour, label=f"ratio {name}")
    if what == "loss" and "chance" in records[0]:
        axis.axhline(records[0]["chance"], color=_MUTED, linestyle="--", label="chance, ln K")
    axis.legend(frameon=False, fontsize=7, ncols=2)


def _line(axis: Any, records: Sequence[dict[str, Any]], name: str, log: bool = False) -> None:
    points = [record for record in records if name in record]
    axis.plot([record["step"] for record in points], [record[name] for record in points], color=_FIRST)
    if log:
        axis.set_yscale("log")
    elif all(record[name] >= 0 for record in points):
        axis.set_ylim(bottom=0)


def _chart(title: str, across: str, paint: Callable[[Any], None]) -> Chart:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("report", "report") from None
    look: Any = {
        "svg.fonttype": "none",  # text stays text: small, sharp, and in the reader's own font
        "svg.hashsalt": title,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": _MUTED,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with rc_context(look):
        figure = Figure(figsize=_SIZE, layout="constrained")  # no pyplot: nothing global is left behind
        axis = figure.add_subplot()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e2e8f0", linewidth=0.6)
        axis.set_axisbelow(True)
        paint(axis)
        axis.set_xlabel(across)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Chart(title, buffer.getvalue())
