"""Large dropout masks are hashes of a counter: as random as draws are, the same whatever the number of threads."""

from __future__ import annotations

import pytest
import torch
from mage_kernels.dropout import keep_mask
from mage_kernels.random_words import PART, mix_

SIZE = 4 * PART * 3 + 4 * 1000 + 1  # parts, one that is not full, a quarter of a word


def kept(seed: int, rate: float = 0.5, size: int = SIZE) -> torch.Tensor:
    torch.manual_seed(seed)
    return keep_mask(torch.empty(size), rate).neg().double()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_shares_are_those_of_the_rate(rate: float) -> None:
    """Of the whole, and of pieces: the count of a fair mask is off by its deviation, rarely by four."""
    mask = kept(0, rate)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    deviation = (rate * (1 - rate)) ** 0.5
    for piece in (mask, mask[: 1 << 15], mask[1::2], mask[:: 1 << 8]):
        assert abs(float(piece.mean()) - (1 - rate)) < 4.5 * deviation / len(piece) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 3, 257, 4 * PART, 4 * PART + 1])
def test_values_do_not_follow_one_another(lag: int) -> None:
    mask = kept(1) - 0.5
    pairs = len(mask) - lag
    assert abs(float((mask[lag:] * mask[:-lag]).sum())) < 4.5 * 0.25 * pairs**0.5


def test_runs_of_eight_are_all_as_frequent() -> None:
    """Chi squared over the 256 patterns of eight values in a row; 255 degrees, deviation 22.6."""
    rows = kept(2)[: SIZE // 8 * 8].view(-1, 8)
    counts = torch.bincount((rows @ (2.0 ** torch.arange(8.0, dtype=torch.float64))).long(), minlength=256).double()
    fair = len(rows) / 256
    assert abs(float(((counts - fair) ** 2 / fair).sum()) - 255) < 5 * 22.6


@pytest.mark.parametrize("stride", [1, 7, -1640531527, 0x12345671])
def test_any_stride_counts_well_and_others_are_unlike_it(stride: int) -> None:
    """Bit by bit: fair, unlike the neighbour's, and unlike those of the next stride from the same start."""
    words = []
    for step in (stride, stride + 2):
        words.append(torch.arange(1 << 20, dtype=torch.int32) * step)
        mix_(words[-1], torch.empty_like(words[-1]))
    far = 4.8 * (1 << 20) ** 0.5
    for bit in range(31):
        first, second = (1 - 2 * ((word >> bit) & 1).double() for word in words)
        for products in (first, first[1:] * first[:-1], first * second):
            assert abs(float(products.sum())) < far


def test_calls_are_drawn_anew_and_seeds_repeat_them() -> None:
    assert not torch.equal(kept(3), kept(4)) and torch.equal(kept(3), kept(3))


def test_threads_change_nothing() -> None:
    threads = torch.get_num_threads()
    whole = kept(5)
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(kept(5), whole)
    finally:
        torch.set_num_threads(threads)


def test_a_mask_as_large_as_a_part_is_drawn_and_a_larger_one_hashed() -> None:
    for size in (4 * PART, 4 * PART + 1):
        assert abs(float(kept(6, 0.25, size).mean()) - 0.75) < 0.01
