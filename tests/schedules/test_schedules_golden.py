"""Golden tables: tokens still masked after each step. The cosine one is the published sampler's own."""

from __future__ import annotations

import pytest

import mage_kit as mk

GOLDEN = {
    ("cosine", 256, 20): "255 252 248 243 236 228 218 207 194 181 166 150 133 116 97 79 59 40 20 0",
    ("cosine", 256, 8): "251 236 212 181 142 97 49 0",
    ("cosine", 16, 12): "15 14 13 12 11 10 9 8 6 4 2 0",
    ("linear", 256, 8): "224 192 160 128 96 64 32 0",
    ("arccos", 256, 8): "235 214 193 170 145 117 82 0",
    ("power", 256, 8): "252 240 220 192 156 112 60 0",
    ("square_root", 256, 8): "165 128 99 74 53 34 16 0",
    ("cosine", 5, 20): "4 3 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_counts(case: tuple[str, int, int]) -> None:
    kind, tokens, steps = case
    schedule = mk.SCHEDULES.get(kind).cls()
    assert schedule.counts(tokens, steps) == [int(word) for word in GOLDEN[case].split()]


def test_every_schedule_has_a_table() -> None:
    assert {kind for kind, _, _ in GOLDEN} == set(mk.SCHEDULES.kinds())
