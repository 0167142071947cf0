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

from mage_kit.base.doors import check_tensor

UNKNOWN = -1


@dataclass(frozen=True)
class Condition:
    """What is told of a batch.

    Args:
        labels_B: int64 class numbers; `UNKNOWN` where the decoder is to do without.
        vectors_BX: Floating vectors beside the labels, as of a text or another image; all zeros where nothing is to be
            told. None where there are none.

    Raises:
        ValueError: If labels are no int64 tensor of shape (B,), or vectors no floating one of shape (B, X).
    """

    labels_B: Tensor
    vectors_BX: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse what would be taken for something else further down."""
        labels_B, vectors_BX = self.labels_B, self.vectors_BX
        check_tensor("labels", labels_B)
        if labels_B.dtype != torch.int64 or labels_B.ndim != 1:
            raise ValueError(f"labels: {tuple(labels_B.shape)} {labels_B.dtype}, must be (B,) torch.int64")
        if vectors_BX is None:
            return
        check_tensor("vectors", vectors_BX)
        if not vectors_BX.is_floating_point() or vectors_BX.ndim != 2:
            raise ValueError(f"vectors: {tuple(vectors_BX.shape)} {vectors_BX.dtype}, must be floating (B, X)")

    def without(self) -> Condition:
        """Return the condition of the same images with nothing told."""
        vectors = None if self.vectors_BX is None else torch.zeros_like(self.vectors_BX)
        return Condition(torch.full_like(self.labels_B, UNKNOWN), vectors)

    def dropped(self, uniform_B: Tensor, share: float) -> Condition:
        """Return the condition with nothing told of a share of the images: those whose number lies below it."""
        out_B = uniform_B < share
        vectors = None if self.vectors_BX is None else self.vectors_BX.masked_fill(out_B[:, None], 0.0)
        return Condition(torch.where(out_B, UNKNOWN, self.labels_B), vectors)

    def repeat(self, views: int) -> Condition:
        """Return the condition of so many views of the same images, view after view."""
        vectors = None if self.vectors_BX is None else self.vectors_BX.repeat(views, 1)
        return Condition(self.labels_B.repeat(views), vectors)

    def __getitem__(self, part: slice) -> Condition:
        """Return the condition of some of the images."""
        return Condition(self.labels_B[part], None if self.vectors_BX is None else self.vectors_BX[part])

    def to(self, device: torch.device) -> Condition:
        """Return the condition on a device."""
        vectors = None if self.vectors_BX is None else self.vectors_BX.to(device, non_blocking=True)
        return Condition(self.labels_B.to(device, non_blocking=True), vectors)


def labels_in_turn(first: int, count: int, classes: int) -> list[int]:
    """Return the classes of images `first` to `first + count - 1`: each class in turn."""
    return [index % classes for index in range(first, first + count)]


def checked_labels(labels: Sequence[SupportsIndex], classes: int) -> list[int]:
    """Return labels as plain whole numbers.

    Raises:
        ValueError: Unless each is a class, or `UNKNOWN`.
    """
    numbers = []
    for label in labels:
        try:
            number = UNKNOWN - 1 if isinstance(label, bool) else operator.index(label)
        except TypeError:
            number = UNKNOWN - 1
        if not UNKNOWN <= number < classes:
            raise ValueError(f"labels: {label!r}, must be whole numbers from 0 to {classes - 1}, or -1 for no class")
        numbers.append(number)
    return numbers
