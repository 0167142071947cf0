"""Means, intervals and paired differences against scipy's own tests on the same numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

import mage_kit as mk
from mage_kit.studies.statistics import difference_interval, interval


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_an_interval_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(3, 2, count)
    ours = interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    assert ours.std == pytest.approx(values.std(ddof=1)) and ours.count == count
    assert ours.half == pytest.approx((high - low) / 2)


def test_zero_is_outside_just_where_the_paired_test_says_so() -> None:
    random, verdicts = np.random.default_rng(0), set()
    for trial in range(200):
        count = int(random.integers(2, 8))
        first = random.normal(0, 1, count)
        second = first + random.normal(0.5, 0.5, count)
        ours, theirs = difference_interval(first.tolist(), second.tolist()), stats.ttest_rel(second, first)
        assert ours.excludes_zero == (theirs.pvalue < 0.05), trial
        low, high = theirs.confidence_interval(0.95)
        assert (ours.low, ours.high) == pytest.approx((low, high))
        verdicts.add(ours.excludes_zero)
    assert verdicts == {True, False}


def test_one_value_says_nothing_of_its_spread() -> None:
    one = interval([0.5])
    assert one.mean == 0.5 and one.std == 0 and one.high == math.inf and not one.excludes_zero


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(mk.MageKitError, match="must be finite numbers, at least one"):
        interval(values)


def test_pairs_are_pairs() -> None:
    with pytest.raises(mk.MageKitError, match="2 and 1, must be pairs"):
        difference_interval([1.0, 2.0], [1.0])


def test_differences_that_are_all_alike_tell_no_direction() -> None:
    alike = interval([0.1 + 0.2, 0.3, 0.3])
    assert alike.low > 0 and not alike.excludes_zero
    assert interval([0.31, 0.3, 0.29]).excludes_zero
