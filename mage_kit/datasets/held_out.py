"""Images that are trained on and images held out, of one data set: `part` of the data sets that know the two."""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["all", "training", "held_out"]


def is_in_part(part: Part, held_out: bool) -> bool:
    """Return whether an image belongs to a part.

    Args:
        part: "all", "training" without those held out, or "held_out" with these alone.
        held_out: Whether the image is one of them.
    """
    return part == "all" or held_out == (part == "held_out")


def name_share(name: str) -> float:
    """Return a number in [0, 1) that follows from a name alone: below a share, the image is held out.

    Images that come later, or go, move no other to the other side.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48
