"""Every random number of a run, derived from (seed, purpose, ...): nothing depends on what was drawn before.

Workers, processes, batch sizes and restarts therefore change nothing. Two forms: `derive` gives a seed for
torch's or numpy's own generators; `uniforms` computes numbers straight from per-image keys, on any device,
without one generator object an image.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer: splitmix64's increment
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def derive(seed: int, purpose: str, *parts: int) -> int:
    """Return a 63-bit seed for (seed, purpose, parts); different arguments give unrelated seeds."""
    text = f"{seed}/{purpose}/" + "/".join(str(int(part)) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *parts: int) -> torch.Generator:
    """Return a CPU generator seeded with `derive(seed, purpose, *parts)`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *parts))


def keys(seed: int, purpose: str, index_B: Tensor, *parts: int) -> Tensor:
    """Return one int64 key an image from (seed, purpose, parts, index).

    Args:
        seed: The recipe's seed.
        purpose: What the numbers are for ("mask", "decode").
        index_B: int64 sample indices.
        parts: Further whole numbers, such as epoch and view.

    Returns:
        int64 tensor of the shape of `index_B`, on its device.
    """
    return _mix(_mix(index_B) + derive(seed, purpose, *parts))


def uniforms(keys_B: Tensor, count: int) -> Tensor:
    """Return `count` uniform numbers in (0, 1) for each key.

    Args:
        keys_B: int64 keys, as from `keys`.
        count: How many numbers a key.

    Returns:
        float64 tensor (B, count) with 52 random bits each, on the keys' device; never 0, never 1, so that
        a Gumbel transform stays finite and is not capped.
    """
    step_N = torch.arange(1, count + 1, dtype=torch.int64, device=keys_B.device) * _GOLDEN
    bits_BN = _mix(keys_B[:, None] + step_N)
    return (_shift(bits_BN, 12).to(torch.float64) + 0.5) * 2.0**-52


def more_uniforms(uniform: Tensor, count: int) -> Tensor:
    """Return `count` uniform numbers in (0, 1) that follow from each given one, as from a key.

    Args:
        uniform: Numbers in (0, 1), of any shape.
        count: How many of each.

    Returns:
        float64, of the given shape with `count` as a last dimension.
    """
    keys = (uniform.double() * 2.0**53).to(torch.int64).flatten()
    numbers: Tensor = uniforms(keys, count).unflatten(0, tuple(uniform.shape))
    return numbers


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """Finaliser of splitmix64 on int64 with wrap-around: each output bit depends on each input bit."""
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)
