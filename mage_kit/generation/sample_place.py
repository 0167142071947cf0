"""Where samples may be written: nothing is replaced unasked, and nothing at all that is not samples."""

from __future__ import annotations

import re
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import check_writable, read_json

ARRAYS = ".npz"
PICTURES = re.compile(r"\d{6,}\.png|settings\.json|steps\.gif")  # names in a folder of samples


def check_target(target: Path, overwrite: bool, *, folder: bool) -> None:
    """Make sure that samples may be written to a place.

    Args:
        target: A folder; or a file, with its settings in a .json and an animation in a .gif beside it.
        overwrite: Whether what an earlier call left there may go.
        folder: Which of the two.

    Raises:
        MageKitError: If not.
    """
    check_writable(target)
    clash = target.exists() and (not folder or not target.is_dir() or any(target.iterdir()))
    beside = [] if folder else [target.with_suffix(suffix) for suffix in (".json", ".gif")]
    for place in [*([target] if clash else []), *(path for path in beside if path.exists())]:
        if not overwrite:
            raise MageKitError(f"out: '{place}', exists; choose another or give --overwrite")
    settings = target.with_suffix(".json")
    if not folder and settings.exists() and "decoding" not in read_json(settings):
        raise MageKitError(
            f"out: '{target}', its settings would replace '{settings}', which is no picture's; choose another"
        )
    if target.exists() and target.is_dir() != folder:
        raise MageKitError(f"out: '{target}', must be a {'folder' if folder else 'file'}")
    if target.is_dir() and not all(PICTURES.fullmatch(path.name) for path in target.iterdir()):
        raise MageKitError(f"out: '{target}', holds other files than generated images; choose another folder")
