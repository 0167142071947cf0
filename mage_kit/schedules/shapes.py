"""The schedules of the field, each one curve of the progress r = t / T."""

from __future__ import annotations

import math

from mage_kit.base.fields import PositiveFloat
from mage_kit.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("cosine")
class CosineSchedule(Schedule):
    """cos(pi r / 2): few tokens first, many later. MAGE's and MaskGIT's own."""

    def remaining(self, progress: float) -> float:
        """Return cos(pi r / 2)."""
        return math.cos(math.pi / 2 * progress)


@SCHEDULES.register("linear")
class LinearSchedule(Schedule):
    """1 - r: the same number at each step."""

    def remaining(self, progress: float) -> float:
        """Return 1 - r."""
        return 1.0 - progress


@SCHEDULES.register("arccos")
class ArccosSchedule(Schedule):
    """(2 / pi) arccos(r): gentler than cosine at the start, steeper at the end."""

    def remaining(self, progress: float) -> float:
        """Return (2 / pi) arccos(r)."""
        return math.acos(progress) * 2 / math.pi


@SCHEDULES.register("power")
class PowerSchedule(Schedule):
    """1 - r^exponent: 2 is MaskGIT's "square", 3 its "cubic".

    Args:
        exponent: Above 1 few tokens come first; below 1 many do.
    """

    def __init__(self, *, exponent: PositiveFloat = 2.0) -> None:
        self.exponent = exponent

    def remaining(self, progress: float) -> float:
        """Return 1 - r^exponent."""
        return 1.0 - math.pow(progress, self.exponent)


@SCHEDULES.register("square_root")
class SquareRootSchedule(Schedule):
    """1 - sqrt(r): many tokens first; MaskGIT's convex counter-example."""

    def remaining(self, progress: float) -> float:
        """Return 1 - sqrt(r)."""
        return 1.0 - math.sqrt(progress)
