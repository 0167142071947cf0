"""What conditional decoders are told of each image: its class, or that it is not known.

Legend: B images.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor

UNKNOWN = -1


@dataclass(frozen=True)
class Condition:
    """The labels of a batch.

    Args:
        labels_B: int64 class numbers; `UNKNOWN` where the decoder is to do without.
    """

    labels_B: Tensor

    def without(self) -> Condition:
        """Return the condition of the same images with no label known."""
        return Condition(torch.full_like(self.labels_B, UNKNOWN))

    def dropped(self, uniform_B: Tensor, share: float) -> Condition:
        """Return the condition without the labels of a share of the images: those whose number lies below it."""
        return Condition(torch.where(uniform_B < share, UNKNOWN, self.labels_B))

    def __getitem__(self, part: slice) -> Condition:
        """Return the condition of some of the images."""
        return Condition(self.labels_B[part])

    def to(self, device: torch.device) -> Condition:
        """Return the condition on a device."""
        return Condition(self.labels_B.to(device, non_blocking=True))


def labels_in_turn(first: int, count: int, classes: int) -> list[int]:
    """Return the classes of images `first` to `first + count - 1`: each class in turn."""
    return [index % classes for index in range(first, first + count)]


def checked_labels(labels: Sequence[SupportsIndex], classes: int) -> list[int]:
    """Return labels as plain whole numbers.

    Raises:
        ValueError: Unless each is a class, or `UNKNOWN`.
    """
    found = []
    for label in labels:
        try:
            number = UNKNOWN - 1 if isinstance(label, bool) else operator.index(label)
        except TypeError:
            number = UNKNOWN - 1
        if not UNKNOWN <= number < classes:
            raise ValueError(f"labels: {label!r}, must be whole numbers from 0 to {classes - 1}, or -1 for no class")
        found.append(number)
    return found
