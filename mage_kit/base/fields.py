"""Bounded types for component signatures: the bound stands in the type, once, and reaches recipe and schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST_WORKERS = 256
_LARGEST = 2**31 - 1  # of sizes and counts: beyond it no library below counts in its own integers

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A dropout-like probability in [0, 1)."""

Positive = Annotated[int, Field(ge=1, le=_LARGEST)]
"""A whole number of at least 1, at most 2^31 - 1."""

NonNegative = Annotated[int, Field(ge=0, le=_LARGEST)]
"""A whole number of at least 0, at most 2^31 - 1."""

Depth = Annotated[int, Field(ge=1, le=1000)]
"""A number of modules in a row, at least 1, at most 1,000: each is built one by one, on whatever machine looks."""

BatchSize = Annotated[int, Field(ge=1, le=2**20)]
"""Images at once, at least 1, at most 2^20: masks and draws of all of them are made on one machine."""

Workers = Annotated[int, Field(ge=0, le=MOST_WORKERS)]
"""Processes that load images, at most 256: each is a copy of the program, and a machine has not the memory for more."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Where random draws begin: a whole number of at least 0 that fits into 64 bits."""

PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
"""A finite number above 0."""

NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
"""A finite number of at least 0."""

LearningRate = Annotated[float, Field(gt=0.0, le=1e38)]
"""A learning rate, above 0 and at most 10^38, as far as float32 goes: times the batch it is still a number."""
