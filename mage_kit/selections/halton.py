"""Selection by a low-discrepancy sequence: tokens of one step lie far apart and depend little on each other."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from mage_kit.base.grid import TokenGrid
from mage_kit.selections.base import SELECTIONS, Selection, SelectionStep


@SELECTIONS.register("halton")
class Halton(Selection):
    """Keeps tokens in the order of the Halton sequence (bases 2 and 3) over the grid, whatever their confidence.

    Besnier et al., "Halton Scheduler for Masked Generative Image Transformer", ICLR 2025.
    """

    def score(self, step: SelectionStep) -> Tensor:
        """Return minus the place in the sequence (B, L)."""
        return _scores(step.grid, step.log_p_BL.device).expand_as(step.log_p_BL)


@lru_cache(maxsize=32)
def _scores(grid: TokenGrid, device: torch.device) -> Tensor:
    """Minus each token's place, on the device once."""
    return -torch.tensor(halton_places(grid), dtype=torch.float32, device=device)


@lru_cache(maxsize=32)
def halton_places(grid: TokenGrid) -> tuple[int, ...]:
    """Return each token's place in the order in which the sequence first reaches its cell; a permutation of 0..L-1."""
    places: dict[int, int] = {}
    index = 1
    while len(places) < grid.size:
        row = int(radical_inverse(index, 2) * grid.height)
        column = int(radical_inverse(index, 3) * grid.width)
        places.setdefault(row * grid.width + column, len(places))
        index += 1
    return tuple(places[token] for token in range(grid.size))


def radical_inverse(index: int, base: int) -> float:
    """Return the digits of `index` in `base`, mirrored behind the point: a number in [0, 1)."""
    result, scale = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        scale /= base
        result += digit * scale
    return result
