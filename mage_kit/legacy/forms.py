"""How one published tensor becomes one of ours, and back: most are the same under another name, a few are not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """The same values in the same shape, unless a subclass says otherwise.

    `base` in `write` is a tensor of the published shape whose other values are kept; most forms need none.
    """

    def read(self, theirs: Tensor) -> Tensor:
        """Return our tensor from the published one."""
        return theirs

    def write(self, ours: Tensor, base: Tensor | None) -> Tensor:
        """Return the published tensor from ours."""
        return ours

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Return the published tensor's shape from ours."""
        return ours

    def surplus(self, shape: tuple[int, ...]) -> int:
        """Return how many values of a published tensor of this shape do not reach us."""
        return 0


SAME = Form()


@dataclass(frozen=True)
class Batched(Form):
    """Published with leading axes of length 1, as (1, 257, 768) for ours (257, 768).

    Args:
        axes: How many.
    """

    axes: int = 1

    def read(self, theirs: Tensor) -> Tensor:
        """Drop the leading axes."""
        return theirs.reshape(theirs.shape[self.axes :])

    def write(self, ours: Tensor, base: Tensor | None) -> Tensor:
        """Put the leading axes back."""
        return ours.reshape(self.shape(tuple(ours.shape)))

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """Leading ones, then ours."""
        return (1,) * self.axes + ours


@dataclass(frozen=True)
class Kernel(Form):
    """A convolution's kernel as flax keeps it: (height, width, in, out) for our (out, in, height, width)."""

    def read(self, theirs: Tensor) -> Tensor:
        """(H, W, I, O) -> (O, I, H, W)."""
        return theirs.permute(3, 2, 0, 1)

    def write(self, ours: Tensor, base: Tensor | None) -> Tensor:
        """(O, I, H, W) -> (H, W, I, O)."""
        return ours.permute(2, 3, 1, 0)

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """(O, I, H, W) -> (H, W, I, O)."""
        return (ours[2], ours[3], ours[1], ours[0])


@dataclass(frozen=True)
class Pointwise(Form):
    """A linear layer's matrix (out, in) for our 1x1 convolution's kernel (out, in, 1, 1)."""

    def read(self, theirs: Tensor) -> Tensor:
        """(O, I) -> (O, I, 1, 1)."""
        return theirs[:, :, None, None]

    def write(self, ours: Tensor, base: Tensor | None) -> Tensor:
        """(O, I, 1, 1) -> (O, I)."""
        return ours[:, :, 0, 0]

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """(O, I, 1, 1) -> (O, I)."""
        return ours[:2]


@dataclass(frozen=True)
class Rows(Form):
    """Chosen rows of a longer tensor, such as the vocabulary's; leading axes of length 1 are dropped.

    Args:
        rows: Published row of each of our rows, in order.
        total: Rows published.
        leading: Axes of length 1 before the rows.
    """

    rows: tuple[int, ...]
    total: int
    leading: int = 0

    def read(self, theirs: Tensor) -> Tensor:
        """Pick the rows."""
        flat = theirs.reshape(theirs.shape[self.leading :])
        return flat[torch.tensor(self.rows, device=flat.device)]

    def write(self, ours: Tensor, base: Tensor | None) -> Tensor:
        """Put the rows into `base`, or into zeros."""
        shape = self.shape(tuple(ours.shape))
        whole = (
            torch.zeros(shape, dtype=ours.dtype, device=ours.device) if base is None else base.to(ours.dtype, copy=True)
        )
        whole.reshape(shape[self.leading :])[torch.tensor(self.rows, device=ours.device)] = ours
        return whole

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """All rows published, ours or not."""
        return (*(1,) * self.leading, self.total, *ours[1:])

    def surplus(self, shape: tuple[int, ...]) -> int:
        """Values of the rows not picked."""
        width = 1
        for size in shape[self.leading + 1 :]:
            width *= size
        return (self.total - len(self.rows)) * width
