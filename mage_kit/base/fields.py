"""Bounded types for component signatures: the bound stands in the type, once, and reaches recipe and schema."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A dropout-like probability in [0, 1)."""

Positive = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""

NonNegative = Annotated[int, Field(ge=0)]
"""A whole number of at least 0."""

PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
"""A finite number above 0."""

NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
"""A finite number of at least 0."""
