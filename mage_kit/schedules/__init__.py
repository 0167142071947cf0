"""Sampling schedules: how many tokens stay masked after each decoding step."""

from mage_kit.schedules.base import SCHEDULES, Schedule
from mage_kit.schedules.shapes import (
    ArccosSchedule,
    CosineSchedule,
    LinearSchedule,
    PowerSchedule,
    SquareRootSchedule,
)

__all__ = [
    "SCHEDULES",
    "ArccosSchedule",
    "CosineSchedule",
    "LinearSchedule",
    "PowerSchedule",
    "Schedule",
    "SquareRootSchedule",
]
