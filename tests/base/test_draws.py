"""Seeds derived from seeds."""

from __future__ import annotations

from mage_kit.base.draws import derive


def test_seeds_derive_to_different_numbers() -> None:
    numbers = {derive(seed, purpose, part) for seed in range(20) for purpose in ("a", "b") for part in range(20)}
    assert len(numbers) == 800 and all(0 <= value < 2**63 for value in numbers)
