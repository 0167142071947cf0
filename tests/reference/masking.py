"""Masks and loss written a second time, in plain numpy loops, from the paper and the conventions alone."""

from __future__ import annotations

import math

import numpy as np


def masks(noise: np.ndarray, ratio: float, drop: float) -> tuple[list[int], list[int], list[int]]:
    """Return (masked, dropped, kept) tokens of one image: the lowest noise first, ties by index."""
    length = len(noise)
    order = sorted(range(length), key=lambda token: (noise[token], token))
    masked = sorted(order[: math.ceil(ratio * length)])
    dropped = sorted(order[: math.ceil(drop * length)])
    return masked, dropped, [token for token in range(length) if token not in dropped]


def padded_source(masked: list[int], kept: list[int], length: int) -> list[int]:
    """Return, for each position (class first), the encoder output that the decoder gets: 0 is [C]."""
    visible = [token for token in kept if token not in masked]
    return [0, *(1 + kept.index(token) if token in visible else 0 for token in range(length))]


def smoothed_cross_entropy(logits: np.ndarray, target: int, smoothing: float) -> float:
    """Return (1 - s) NLL + s mean negative log-probability of one token, in float64."""
    wide = logits.astype(np.float64)
    log_p = wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())
    return float(-(1 - smoothing) * log_p[target] - smoothing * log_p.mean())


def info_nce(first: np.ndarray, second: np.ndarray, temperature: float, gate: list[bool], cross_only: bool) -> float:
    """Return the sum over gated anchors of both views of -log softmax of the positive."""
    views, total = (first, second), 0.0
    for side in range(2):
        own, other = views[side], views[1 - side]
        for i in range(len(own)):
            if not gate[i]:
                continue
            similar = [float(own[i] @ other[j]) / temperature for j in range(len(other))]
            rivals = [] if cross_only else [float(own[i] @ own[j]) / temperature for j in range(len(own)) if j != i]
            total += math.log(sum(math.exp(value) for value in similar + rivals)) - similar[i]
    return total
