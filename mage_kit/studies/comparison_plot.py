"""A comparison as a picture: each figure's mean and interval by row, and the seeds as points."""

from __future__ import annotations

import math
from pathlib import Path

from mage_kit.evaluation.plots import new_figure, write_figure
from mage_kit.studies.comparison import Comparison

_WIDTH = 30  # letters of a row's name


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw one panel a figure to a PNG, rows from top to bottom.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    shown = [figure for figure in comparison.figures if any(figure.name in row.values for row in comparison.rows)]
    figure, axes = new_figure(1, max(1, len(shown)), height=1.2 + 0.4 * len(comparison.rows))
    places = range(len(comparison.rows))
    for number, column in enumerate(shown):
        axis = axes[0, number]
        for place, row in enumerate(comparison.rows):
            values = list(row.values.get(column.name, {}).values())
            mean = comparison.mean(row, column.name)
            if mean is None:
                continue
            half = mean.half if math.isfinite(mean.half) else 0.0
            axis.errorbar([mean.mean], [place], xerr=[[half], [half]], fmt="o", capsize=4, color="C0")
            axis.plot(values, [place] * len(values), "|", color="C1", markersize=10)
        axis.set_yticks(list(places), [row.name[:_WIDTH] for row in comparison.rows] if number == 0 else [])
        axis.set_ylim(len(comparison.rows) - 0.5, -0.5)
        better = f" ({column.better} is better)" if column.better else ""
        axis.set_title(f"{column.name}{better}", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    write_figure(figure, path)
