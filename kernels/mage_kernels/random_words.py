"""Random words on a CPU: few are drawn, many are a counter's hash.

torch's generator is one thread's work, each draw needing the one before; a hash of i needs none, and all threads
compute it at once. Word i is mix(a i + b), with b and an odd a drawn from torch's generator for each call: two calls
count by other steps, so that no part of one is the other's. The mixing is MurmurHash3's last step, xor-shifts and odd
products, in which half of the output bits change with any input bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PART = (
    1 << 16
)  # words of 64 bits that are hashed at once, and stay in a processor's cache; no more than these are drawn
_MIX = ((16, -2048144789), (13, -1028477387))  # MurmurHash3's shifts and factors, as signed words of 32 bits


def random_words(words: Tensor) -> Iterator[Tensor]:
    """Fill words with random bits, and yield them part by part, each as soon as it is filled.

    Of each half of 32 bits all but the highest bit are random.

    Args:
        words: int64 (N,).
    """
    if len(words) <= PART:
        yield words.random_(-(1 << 63), None)
        return
    stride, start = torch.empty(2, dtype=torch.int32, device=words.device).random_(-(1 << 31), None).unbind()
    stride.bitwise_or_(1)
    counter = torch.arange(2 * PART, dtype=torch.int32, device=words.device).mul_(stride).add_(start)
    scratch = torch.empty_like(counter)
    for part in words.split(PART):
        halves = part.view(torch.int32)
        mix_(halves.copy_(counter[: len(halves)]), scratch[: len(halves)])
        counter.add_(stride * (2 * PART))
        yield part


def mix_(words: Tensor, scratch: Tensor) -> None:
    """Hash words in place; of the result 31 bits are good, the highest is 0.

    Args:
        words: int32 (N,).
        scratch: int32 (N,), overwritten.
    """
    for shift, factor in _MIX:
        shifted = torch.bitwise_right_shift(words, shift, out=scratch).bitwise_and_((1 << (32 - shift)) - 1)  # no sign
        words.bitwise_xor_(shifted).mul_(factor)
    words.bitwise_xor_(torch.bitwise_right_shift(words, 16, out=scratch))
