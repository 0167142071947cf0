"""A code that may not be drawn is never drawn, though a GPU's running sums may fall where nothing was added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mage_kernels import sample_tokens
from mage_kernels.ops.sample import allowed

from tests.kernels.tree_scan import Array, tree_cumsum

CODES, TOP = 1024, 100
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off where there is a GPU")


def distributions(rows: int, seed: int) -> Array:
    """Logits of which all but the highest are cut."""
    logits = np.random.default_rng(seed).normal(0, 3, (rows, CODES)).astype(np.float32)
    least = np.partition(logits, -TOP, axis=1)[:, -TOP, None]
    return np.where(logits < least, np.float32(-np.inf), logits)


def hard_targets(cdf: Array, count: int, random: np.random.Generator) -> Array:
    """Half of them on a running sum or one unit of rounding beside it, the others anywhere."""
    rows = len(cdf)
    places = random.integers(0, CODES, (rows, count // 2))
    near = np.take_along_axis(cdf, places, axis=1)
    side = random.integers(-1, 2, near.shape)
    near = np.where(side == 0, near, np.nextafter(near, np.where(side < 0, np.float32(0), np.float32(np.inf))))
    far = random.random((rows, count - count // 2), dtype=np.float32) * cdf[:, -1:]
    return np.concatenate([near, far], axis=1).astype(np.float32)


def draws(rows: int, count: int, run: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Logits, weights, running sums and targets, a hundred rows at a time."""
    random = np.random.default_rng(run)
    for start in range(0, rows, 100):
        logits = distributions(100, 1000 * run + start)
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        cdf = tree_cumsum(weight, run, 4)
        yield logits, weight, cdf, hard_targets(cdf, count, random)


def by_count(cdf: Array, weight: Array, target: Array) -> Any:
    """The rule that trusts running sums to rise: how many are not above the target."""
    last = (np.where(weight > 0, np.arange(CODES), 0)).max(axis=1)[:, None]
    ordered = np.sort(cdf, axis=1)  # a count needs no order, and is found faster in one
    counts = [np.searchsorted(sums, row, side="right") for sums, row in zip(ordered, target, strict=True)]
    return np.minimum(np.stack(counts), last)


def by_weight(cdf: Array, weight: Array, target: Array) -> Any:
    """The kernel's rule: the first place above the target, of those that have weight."""
    codes = []
    for sums, weights, row in zip(cdf, weight, target, strict=True):
        places = weights.nonzero()[0]
        highest = np.maximum.accumulate(sums[places])  # the first above a target is the first that raises the highest
        codes.append(places[np.minimum(np.searchsorted(highest, row, side="right"), len(places) - 1)])
    return np.stack(codes)


def test_the_order_of_a_tree_gives_the_sums() -> None:
    values = np.random.default_rng(0).random((5, 2048), dtype=np.float32)
    for run in (1, 4, 8):
        exact = values.astype(np.float64).cumsum(axis=1)
        np.testing.assert_allclose(tree_cumsum(values, run, 4), exact, rtol=1e-5)
    (_, weight, cdf, _) = next(draws(100, 2, 8))
    assert bool(((np.diff(cdf, axis=1) < 0) & (weight[:, 1:] == 0)).any()), (
        "a running sum that falls where nothing is added"
    )


def hard_cases(rows: int, count: int) -> tuple[Array, Array]:
    """Logits and uniform numbers for which the rule that counts draws a forbidden code."""
    found = []
    for logits, weight, cdf, target in draws(rows, count, 8):
        codes = by_count(cdf, weight, target)
        bad = np.take_along_axis(weight, codes, axis=1) == 0
        for row, column in zip(*bad.nonzero(), strict=True):
            found.append((logits[row], target[row, column].astype(np.float64) / weight[row].sum()))
    return np.stack([logits for logits, _ in found]), np.stack([uniform for _, uniform in found])


@ON_CPU
def test_the_kernel_with_sums_in_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """On what the rule that counts gets wrong; there the kernel runs with the sums of a GPU."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    logits, uniform = hard_cases(400, 200)
    assert len(logits) > 50

    def tree(self: Any, given: Any) -> list[Any]:
        sums = tree_cumsum(given.handle.data.astype(np.float32)[None], 8, 4)[0]
        return [self.to_tensor(sums, dtype=given.dtype)]

    monkeypatch.setattr(interpreter.ScanOps, "cumsum", tree)
    logits, uniform = logits[:200], uniform[:200]
    # One unit of rounding to each side as well: the total of a row is summed in another order there.
    sides = np.stack([uniform * (1 + side * 2.0**-24) for side in (-1, 0, 1)], axis=1)
    rows = torch.from_numpy(logits)[:, None].expand(-1, 3, -1)
    ids, log_p = sample_tokens(rows.contiguous(), torch.from_numpy(sides).clamp(1e-9, 1 - 1e-9), backend="triton")
    assert bool(torch.isfinite(log_p).all())
    assert bool(torch.isfinite(rows.gather(2, ids[..., None])).all())


def test_a_search_that_ends_on_a_forbidden_code_is_mended() -> None:
    log_p = torch.tensor([[[-torch.inf, -1.0, -0.5, -torch.inf], [torch.nan, torch.nan, torch.nan, torch.nan]]])
    for drawn, owed in ((0, 2), (1, 1), (2, 2), (3, 2)):
        ids = torch.tensor([[[drawn], [1]]])
        assert allowed(ids, log_p)[0, :, 0].tolist() == [owed, 1]


@pytest.mark.parametrize("run", [4, 8])
def test_ten_million_draws(run: int) -> None:
    """4 neighbours a thread in float32, 8 in bfloat16."""
    forbidden = {"count": 0, "weight": 0}
    for _, weight, cdf, target in draws(10_000 // 2, 1000, run):
        for name, rule in (("count", by_count), ("weight", by_weight)):
            codes = rule(cdf, weight, target)
            forbidden[name] += int((np.take_along_axis(weight, codes, axis=1) == 0).sum())
    assert forbidden["weight"] == 0 and forbidden["count"] > 0, forbidden
