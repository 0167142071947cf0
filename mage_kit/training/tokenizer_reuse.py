"""A tokenizer trained before, by this run or by one beside it: known by its fingerprint, taken instead of training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mage_kit.base import processes
from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic_folder
from mage_kit.base.progress import Reporter
from mage_kit.store.folders import TOKENIZER_FOLDER
from mage_kit.tokenizers import Tokenizer
from mage_kit.training.weight_folders import WeightFolder, fill_tokenizer, read_tokenizer_card


def take_trained(
    tokenizer: Tokenizer, form: dict[str, Any], fingerprint: str, out: Path, *, beside: bool, reporter: Reporter
) -> bool:
    """Fill a tokenizer from a folder of the same fingerprint; return whether there was a sound one.

    Args:
        tokenizer: Changed in place, in every process.
        form: Its recipe form.
        fingerprint: Of its training.
        out: The run folder; one found elsewhere is copied there.
        beside: Whether to look in the runs beside it too.
        reporter: Where words go.
    """
    own = out / TOKENIZER_FOLDER
    is_there = processes.on_first(lambda: _find(tokenizer, form, fingerprint, own, beside, reporter))
    if is_there and not processes.is_first():
        fill_tokenizer(tokenizer, form, WeightFolder(own), str(own))
    return is_there


def _find(
    tokenizer: Tokenizer, form: dict[str, Any], fingerprint: str, own: Path, beside: bool, reporter: Reporter
) -> bool:
    others = sorted(own.parent.resolve().parent.glob(f"*/{TOKENIZER_FOLDER}")) if beside else []
    for folder in [own, *others]:
        if read_tokenizer_card(folder).get("fingerprint") != fingerprint:
            continue
        try:
            fill_tokenizer(tokenizer, form, WeightFolder(folder), str(folder))
        except MageKitError as error:
            reporter.say(f"tokenizer {folder} is damaged and passed over: {error}")
            continue
        if folder != own:
            reporter.say(f"reusing the tokenizer of {folder.parent} (fingerprint {fingerprint[:12]})")
            with atomic_folder(own) as temporary:
                shutil.copytree(folder, temporary, dirs_exist_ok=True)
        return True
    return False
