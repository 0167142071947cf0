"""What people should know of images that are read otherwise than they may expect: a line of each kind a data set.

Loading processes send remarks along with the images, so that the first process alone says them.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterable
from typing import Any

from mage_kit.base import processes
from mage_kit.base.manifest import FileWarning
from mage_kit.images.pixel_levels import Remark


def tell(dataset: Any, remarks: Iterable[Remark]) -> None:
    """Warn of what no remark of the same kind has said yet of a data set; in the first process alone.

    Args:
        dataset: Where the images come from; parts of a data set speak for the whole.
        remarks: What there is to say.
    """
    while hasattr(inner := getattr(dataset, "source", None), "still"):
        dataset = inner
    known_kinds = dataset.__dict__.setdefault("_known_kinds", set())
    for kind, text in remarks:
        if kind not in known_kinds and processes.is_first() and multiprocessing.parent_process() is None:
            known_kinds.add(kind)
            warnings.warn(f"data: {text}", FileWarning, stacklevel=2)
