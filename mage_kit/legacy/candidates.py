"""How many prefixes of a file are looked below: each costs a pass over all names, and a file may have thousands."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mage_kit.base.errors import MageKitError

MOST = 100  # no checkpoint holds so many sets of weights


def check_count(path: Path, prefixes: Collection[str], what: str) -> None:
    """Refuse a file that would have to be looked through too often.

    Args:
        path: The file, for the error.
        prefixes: Below which something may stand.
        what: That something, in the plural.

    Raises:
        MageKitError: If there are more than `MOST` of them.
    """
    if len(prefixes) > MOST:
        first = next(iter(prefixes))
        raise MageKitError(
            f"{path}: has names of {what} below {len(prefixes):,} prefixes (the first is '{first[:80]}'), "
            f"must be {MOST} at most"
        )
