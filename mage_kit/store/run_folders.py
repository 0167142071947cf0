"""Where results go: a new folder, or a run folder that the user said may be replaced."""

from __future__ import annotations

import shutil
from pathlib import Path

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import BROKEN_FILE, LOCK_FILE
from mage_kit.base.manifest import MANIFEST_FILE
from mage_kit.store.exported_adversary import ADVERSARY_FOLDER
from mage_kit.store.folders import EMA_FILE, MODEL_FILE

_FILES = "recipe.json decisions.json data.json plugins.json code.json metrics.jsonl metrics.json probe.json"
EVAL = "eval"  # where what was measured of a run lies
RESULTS = (EVAL, "metrics.json", "probe.json", "report.html")  # of its weights, and of no others
AUDIT_FILE, AUDIT_PICTURE = "tokenizer_audit.json", "tokenizer_audit.png"
TOKENIZER_RESULTS = (ADVERSARY_FOLDER, AUDIT_FILE, AUDIT_PICTURE)  # of a tokenizer that was trained, and of no other
CHECKPOINTS = "checkpoints"  # of each stage, in a folder of its name
EARLIER = "earlier"  # where models of a run that was extended stay
_FOLDERS = (EVAL, EARLIER, "samples", CHECKPOINTS, "tokenizer", "tensorboard")
_WRITTEN = frozenset(
    [
        *_FILES.split(),
        MODEL_FILE,
        EMA_FILE,
        BROKEN_FILE,
        LOCK_FILE,
        MANIFEST_FILE,
        "report.html",
        *TOKENIZER_RESULTS,
        *_FOLDERS,
    ]
)


def clear_run(folder: Path, overwrite: bool) -> None:
    """Make sure that a run can start in a folder; what no run writes is never removed.

    Raises:
        MageKitError: If the folder holds something and `overwrite` was not given, or something that is not of a run.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite or not folder.is_dir():
        raise MageKitError(f"out: '{folder}', is not empty; choose another folder or give --overwrite")
    foreign = sorted(path.name for path in folder.iterdir() if not _is_of_a_run(path))
    if foreign:
        raise MageKitError(
            f"out: '{folder}', holds {foreign[0]}, which no run writes; only run folders are overwritten"
        )
    shutil.rmtree(folder)


def _is_of_a_run(path: Path) -> bool:
    """True for what training, demo, probe, report and generate leave, half-written files among it."""
    temporary = any(path.name.startswith(f".{name}.") for name in _WRITTEN)
    beside = path.suffix in (".json", ".gif") and any(path.with_suffix(end).is_file() for end in (".png", ".npz"))
    return path.name in _WRITTEN or path.suffix in (".png", ".npz") or beside or temporary
