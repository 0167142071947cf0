"""What a data set leaves out, and why: reasons in one wording, junk known by its name, and how much may be lost.

What looks like an image and cannot be one of the data counts as a broken image does, before anything is trained.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping

from mage_kit.base.errors import MageKitError
from mage_kit.images.image_files import SUFFIXES

_JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin"})
_UNREAD = frozenset(
    {
        ".heic", ".heif", ".jxl", ".psd", ".svg", ".eps", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
        ".exr", ".hdr", ".dds", ".ico", ".pcx", ".xcf", ".jpf", ".jpx", ".j2k", ".pbm", ".pnm", ".apng", ".jpg_large",
    }
)  # fmt: skip  # images, for people
HIDDEN = "hidden, or left by a file manager"
NO_FILE = "no file: a folder, a broken link or a loop of links"
NO_IMAGE = "no image, by its suffix"
UNREAD = "an image of a format that is not read"
Pairs = Iterable[tuple[str, str]]
"""(name, reason) of what is left out."""


def is_junk(name: str) -> bool:
    """Return whether a name begins with a dot, as resource forks do, or is one that file managers leave."""
    return name.startswith(".") or name.lower() in _JUNK


def suffix_reason(name: str) -> str | None:
    """Return why a file is no image by its name; None where it may be one."""
    suffix = os.path.splitext(name)[1].lower()
    if is_junk(os.path.basename(name)):
        return HIDDEN
    if suffix in SUFFIXES:
        return None
    return UNREAD if suffix in _UNREAD else NO_IMAGE


def kinds_of(lost: Pairs) -> Counter[str]:
    """Return how many are lost of each kind: by their suffix and the reason."""
    return Counter(f"{os.path.splitext(name)[1].lower() or 'no suffix'}, {reason}" for name, reason in lost)


def check_lost(path: str, lost: Mapping[str, int], count: int, max_broken: float) -> None:
    """Refuse data of which more is lost than may be.

    Args:
        path: Of the data, for the error.
        lost: How many look like images and are none of the data's, by kind.
        count: Images that there are.
        max_broken: Largest share of both together that may be lost, in [0, 1].

    Raises:
        MageKitError: If more is lost; says how many of each kind.
    """
    if (n_lost := sum(lost.values())) > max_broken * (count + n_lost):
        reasons = "; ".join(f"{number} {kind}" for kind, number in lost.items())
        words = f"{n_lost} of {count + n_lost} image files cannot be read: {reasons}"
        raise MageKitError(f"path: '{path}', {words}; more than max_broken ({max_broken:g}) would be left out")
