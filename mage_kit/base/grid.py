"""Geometry of tokens: every size in the project is derived from these two, never from a constant."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TokenGrid:
    """A grid of tokens, read row by row: index = y * width + x.

    Args:
        height: Rows of tokens.
        width: Columns of tokens.

    Raises:
        ValueError: If a side is smaller than 1.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"grid: {self.height}x{self.width}, both sides must be at least 1")

    @property
    def size(self) -> int:
        """Number of tokens, L."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class TokenSpec:
    """What one stream of tokens is; embedding, head and losses follow from it.

    Args:
        grid: Where the tokens lie.
        codes: Size of the codebook, V; None for continuous tokens.
        width: Values in one token: the code's dimensions, or the pixels of a patch.
        factors: Ids that a token has, each of V codes; 1 is the plain case.

    Raises:
        ValueError: If continuous tokens are given more than one id.
    """

    grid: TokenGrid
    codes: int | None
    width: int
    factors: int = 1

    def __post_init__(self) -> None:
        if self.factors < 1 or (self.codes is None and self.factors != 1):
            raise ValueError(f"factors: {self.factors}, must be at least 1, and 1 for continuous tokens")

    @property
    def discrete(self) -> bool:
        """True where a token is a code and its id an integer."""
        return self.codes is not None

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of one token: () for an id, (F,) for F ids, (W,) for values."""
        if self.codes is None:
            return (self.width,)
        return () if self.factors == 1 else (self.factors,)

    @property
    def dtype(self) -> torch.dtype:
        """Of the tokens: int64 ids, or float32 values."""
        return torch.float32 if self.codes is None else torch.int64

    def shape(self, images: int) -> tuple[int, ...]:
        """Return the shape of the tokens of so many images: (B, L), (B, L, F) or (B, L, W)."""
        return (images, self.grid.size, *self.token_shape)
