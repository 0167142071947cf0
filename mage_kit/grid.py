"""Geometry of tokens: every size in the project is derived from these two, never from a constant."""

from __future__ import annotations

from dataclasses import dataclass


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
    """What a tokenizer makes of an image; embedding, head and losses follow from it.

    Args:
        grid: Where the tokens lie.
        codes: Size of the codebook, V; None for continuous tokens.
        width: Values in one token: the code's dimensions, or the pixels of a patch.
    """

    grid: TokenGrid
    codes: int | None
    width: int

    @property
    def discrete(self) -> bool:
        """True where a token is a code and its id an integer."""
        return self.codes is not None
