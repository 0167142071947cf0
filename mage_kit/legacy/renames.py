"""Names that change as a file is read: no two tensors may come out under one name, or the last would win unseen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mage_kit.base.errors import MageKitError


def invert(path: Path, names: Mapping[str, str], cause: str) -> dict[str, str]:
    """Return what each new name was before.

    Args:
        path: The file, for the error.
        names: The new name of each name in the file.
        cause: Why two may come to one, as a clause: "... are one tensor CAUSE".

    Raises:
        MageKitError: If two names have one new name; names both.
    """
    before: dict[str, str] = {}
    for old, new in names.items():
        if before.setdefault(new, old) != old:
            raise MageKitError(f"{path}: holds '{before[new]}' and '{old}', which are one tensor {cause}; remove one")
    return before
