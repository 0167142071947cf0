"""Statistics of tokens as a picture: by share, by step of decoding, confidence against accuracy, use of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mage_kit.evaluation.plots import figure_image, new_figure
from mage_kit.evaluation.token_statistics import CodeUse, HiddenTokens

_CALIBRATED = 3  # shares whose confidence is drawn


def plot_tokens(
    by_share: Mapping[float, HiddenTokens], by_step: Mapping[int, HiddenTokens], uses: Mapping[str, CodeUse]
) -> Image.Image:
    """Draw what a model knows of hidden tokens, and what its samples are made of.

    Args:
        by_share: By share of hidden tokens.
        by_step: By step of decoding, from 1.
        uses: Of codes, by what uses them; may be empty.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = new_figure(2, 2)
    shares, steps, sure, codes = axes.flat
    _numbers(shares, by_share, "by share of hidden tokens", "share hidden")
    _numbers(steps, by_step, "by step of decoding", "step; as many are hidden as before it")
    _calibration(sure, by_share)
    for name, use in uses.items():
        counts = np.sort(use.counts_V)[::-1]
        codes.plot(np.arange(1, 1 + len(counts)), counts / max(1, counts.sum()), label=name)
    if uses:
        codes.set_yscale("log")
        codes.legend(fontsize=8)
    codes.set(title="use of codes", xlabel="codes, the most used first", ylabel="share of the tokens")
    return figure_image(figure)


def _numbers(
    axis: Any, sums: Mapping[float, HiddenTokens] | Mapping[int, HiddenTokens], title: str, across: str
) -> None:
    """Loss on the left axis, accuracy on the right one."""
    points = [(place, each.as_dict()) for place, each in sorted(sums.items())]
    xs = [place for place, _ in points]
    axis.plot(xs, [numbers["loss"] for _, numbers in points], marker="o", color="tab:blue")
    axis.set_ylabel("loss", color="tab:blue")
    axis.set(title=title, xlabel=across)
    if points and all("accuracy" in numbers for _, numbers in points):
        right = axis.twinx()
        right.plot(xs, [numbers["accuracy"] for _, numbers in points], marker="s", color="tab:orange")
        right.set_ylabel("accuracy", color="tab:orange")


def calibration_limit(sums: Sequence[HiddenTokens]) -> float:
    """Return where the axes of the calibration end: a tenth above the largest confidence and accuracy of a bin."""
    highest = 0.02
    for sure_K, hits_K, counts_K in (each.sureness_3K.numpy() for each in sums):
        bins = counts_K > 0
        highest = max([highest, *(sure_K[bins] / counts_K[bins]), *(hits_K[bins] / counts_K[bins])])
    return min(1.0, 1.1 * float(highest))


def _calibration(axis: Any, by_share: Mapping[float, HiddenTokens]) -> None:
    """Accuracy over mean confidence of each bin; on the diagonal a model is right as often as it is sure."""
    places = sorted(by_share)
    shares = sorted({places[round(at)] for at in np.linspace(0, len(places) - 1, min(_CALIBRATED, len(places)))})
    for share in shares:
        sums_K, hits_K, counts_K = by_share[share].sureness_3K.numpy()
        bins = counts_K > 0
        if bins.any():
            sure_K, right_K = sums_K[bins] / counts_K[bins], hits_K[bins] / counts_K[bins]
            axis.plot(sure_K, right_K, marker="o", label=f"{share:g} hidden")
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--")
    room = (0, calibration_limit([by_share[share] for share in shares]))
    axis.set(title="calibration", xlabel="confidence", ylabel="accuracy", xlim=room, ylim=room)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
