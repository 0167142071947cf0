"""Means over seeds, how sure they are, and whether two rows differ: Student's t, of values and of paired differences.

Rows of a comparison share their seeds, and with a seed the data's order, the masks and the initial weights; so what two
rows have in common falls out of their differences, seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mage_kit.base.errors import MageKitError, MissingExtraError

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies with a probability of `LEVEL`, if values are drawn from a normal distribution.

    Args:
        mean: Of the values.
        std: Their deviation (n - 1); 0 of a single one.
        low: Lower end; minus infinity of a single value.
        high: Upper end.
        count: Values.
    """

    mean: float
    std: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside of an interval that has a width.

        Values that are all alike have none: of so few, as of accuracies on a few hundred images, that is chance, and
        no certainty.
        """
        return self.std > 1e-9 * abs(self.mean) and (self.low > 0 or self.high < 0)


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of values with its interval: mean ± t std / sqrt(n), t the quantile of n - 1 degrees of freedom.

    Args:
        values: At least one, finite.
        level: In (0, 1).

    Raises:
        MageKitError: If there is none, or one is not finite.
        MissingExtraError: If scipy is not installed.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or not np.isfinite(array).all():
        raise MageKitError(f"values: {list(values)}, must be finite numbers, at least one")
    count, mean = len(array), float(array.mean())
    if count == 1:
        return Interval(mean, 0.0, -math.inf, math.inf, 1)
    std = float(array.std(ddof=1))
    half = quantile((1 + level) / 2, count - 1) * std / math.sqrt(count)
    return Interval(mean, std, mean - half, mean + half, count)


def difference_interval(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the interval of second - first, value by value: 0 outside of it is the paired t-test at 1 - level.

    Raises:
        MageKitError: If they are not as many, or `interval` says so.
    """
    if len(first) != len(second):
        raise MageKitError(f"values: {len(first)} and {len(second)}, must be pairs")
    return interval([after - before for before, after in zip(first, second, strict=True)], level)


def quantile(share: float, degrees: int) -> float:
    """Return the quantile of Student's t.

    Raises:
        MissingExtraError: If scipy is not installed.
    """
    try:
        from scipy.stats import t
    except ImportError:
        raise MissingExtraError("statistics over seeds", "digits") from None
    return float(t.ppf(share, degrees))
