"""What tar files hold, member by member, in a line; and what of it must not be passed over in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mage_kit.base.errors import MageKitError
from mage_kit.datasets.passed_over import check_lost
from mage_kit.datasets.tar_index import TarIndex
from mage_kit.datasets.tar_labels import FOLDER, JSON, NONE
from mage_kit.images.image_files import SUFFIXES

_SHOWN = 4  # extensions of a sample


def check_rules(picture: Sequence[str] | None, label_from: str | None) -> None:
    """Refuse settings that name nothing.

    Raises:
        MageKitError: If an extension of the picture is none of an image, or labels cannot stand where they are said to.
    """
    for extension in picture or ():
        if f".{extension.lower().rpartition('.')[2]}" not in SUFFIXES or extension.startswith("."):
            words = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise MageKitError(f"picture: '{extension}', must be, or end in a dot and, one of {words}")
    if label_from is not None and (label_from in ("", "json", JSON) or label_from.startswith(".")):
        rule = f'must be an extension without its dot, "{JSON}KEY", "{FOLDER}" or "{NONE}"'
        raise MageKitError(f"label_from: '{label_from}', {rule}")


def check_pictures(path: str, indices: Sequence[TarIndex], max_broken: float) -> None:
    """Refuse tar files without pictures, with several in a sample, or of which too many are lost.

    Args:
        path: Of the tar files, for errors.
        indices: Of each.
        max_broken: Largest share of the images that may be lost, in [0, 1].

    Raises:
        MageKitError: With what they hold, or the setting that says which picture is meant.
    """
    count = sum(len(index.names) for index in indices)
    if several := sum(index.facts.several for index in indices):
        key, *extensions = next(index.facts.example for index in indices if index.facts.several)
        shown = ", ".join(extensions[:_SHOWN]) + (", ..." if len(extensions) > _SHOWN else "")
        words = f"{several} of {count} samples hold several pictures, as '{key}': {shown}"
        rule = f'data.picture must say which, as ["{extensions[0]}"]'
        if len({extension.rpartition(".")[2] for extension in extensions}) < len(extensions):
            rule += '; or, where the names of different pictures hold dots, data.keys must be "last_dot"'
        raise MageKitError(f"path: '{path}', {words}; {rule}")
    if not count:
        kinds = _words(_counts(indices)) or "no member at all"
        raise MageKitError(f"path: '{path}', holds no image in its tar files ({len(indices)}): {kinds}")
    lost = Counter[str]()
    for index in indices:
        lost.update(index.facts.lost)
    check_lost(path, lost, count, max_broken)


def summary(indices: Sequence[TarIndex], unread: int) -> str:
    """Return how many members there are of each kind, in a line.

    Args:
        indices: Of each tar file.
        unread: Labels that are no class.
    """
    counts = _counts(indices)
    words = f"members of the tar files ({len(indices)}): {counts.total():,}, as {_words(counts)}"
    return f"{words}; {unread:,} of the labels are words among class numbers, and taken for none" if unread else words


def _counts(indices: Sequence[TarIndex]) -> Counter[str]:
    counts = Counter[str]()
    for index in indices:
        counts.update(index.facts.counts)
    return counts


def _words(counts: Counter[str]) -> str:
    in_order = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return "; ".join(f"{kind}: {number:,}" for kind, number in in_order)
