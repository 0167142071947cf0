"""The order in which a GPU's program adds up a row, in numpy: Triton's interpreter adds one after the other.

Each thread owns runs of values and adds its own first; the sums of a warp's threads are added in a tree (Hillis and
Steele: every lane adds what lies 1, 2, 4, 8, 16 lanes before it); the sums of warps one after the other. A thread's
last value comes from the tree, its others from the thread before and its own sums: two orders, whose roundings differ,
so that the running sum can fall where nothing was added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LANES = 32
Array = np.ndarray[Any, np.dtype[np.float32]]


def tree_cumsum(values: Array, run: int, warps: int) -> Array:
    """Return the running sums of each row as a program of so many warps computes them.

    Args:
        values: (rows, length) float32; a power of two of values, or fewer than the threads own at once.
        run: Neighbouring values of one thread.
        warps: Of the program.
    """
    rows, length = values.shape
    own = min(run, max(1, length // LANES))
    lanes = min(LANES, length // own)
    groups = values.reshape(rows, -1, lanes, own)  # a group is what one warp adds in a tree
    local = np.add.accumulate(groups, axis=-1, dtype=np.float32)
    tree = local[..., -1].copy()
    step = 1
    while step < lanes:
        moved = tree.copy()
        moved[..., step:] = tree[..., step:] + tree[..., :-step]
        tree, step = moved, 2 * step
    sums = np.empty_like(groups)
    carry = np.zeros((rows, 1), dtype=np.float32)
    for group in range(groups.shape[1]):
        last = carry + tree[:, group]
        before = np.concatenate([carry, last[:, :-1]], axis=1)
        sums[:, group] = before[..., None] + local[:, group]
        sums[:, group, :, -1] = last
        carry = last[:, -1:]
    return sums.reshape(rows, length)
