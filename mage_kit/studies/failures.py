"""What went wrong in one training of many, as a line of a table."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from mage_kit.base.errors import TrainingStopped

T = TypeVar("T")

EXPECTED = (ValueError, OSError, ImportError)  # what a setting, a part or the machine may do; no bug


def attempt(action: Callable[[], T]) -> tuple[T | None, str]:
    """Return what an action gives, and ""; or None, and what went wrong.

    Raises:
        TrainingStopped: If a training in it was told to stop.
    """
    try:
        return action(), ""
    except TrainingStopped:
        raise
    except Exception as error:  # a plug-in's bug, a GPU without memory: the others go on all the same
        return None, problem_of(error)


def problem_of(error: Exception) -> str:
    """Return an error as text; of a bug, or a GPU without memory, with its kind and place.

    What it holds of a GPU's memory is given back: the next training needs it.
    """
    words = str(error)
    if not isinstance(error, EXPECTED):
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno}, in {last.name})"
    error.__traceback__ = None  # its frames hold the model
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
    return words
