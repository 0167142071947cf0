"""The adversary that a tokenizer was trained with, under the names that taming-transformers keeps it by.

There a checkpoint holds the whole training: the tokenizer, and its discriminator as `loss.discriminator.main.N`. That
discriminator is PatchGAN with batch norm; another has no names there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import read_json, read_tensors
from mage_kit.base.manifest import check_file

ADVERSARY_FOLDER, ADVERSARY_CARD, ADVERSARY_WEIGHTS = "adversary", "adversary.json", "weights.safetensors"  # of a run
_PREFIX = "loss.discriminator."
_PUBLISHED = {"kind": "patchgan", "norm": "batch"}


def adversary_tensors(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the adversary's tensors by published name; and lines on what is left out.

    Args:
        source: Run or tokenizer folder; without an adversary beside the tokenizer there are none.

    Raises:
        MageKitError: If its files are damaged.
    """
    folder = next((place for place in _places(source) if (place / ADVERSARY_CARD).is_file()), None)
    if folder is None:
        return {}, []
    for name in (ADVERSARY_CARD, ADVERSARY_WEIGHTS):
        check_file(folder / name)
    form = _form(folder / ADVERSARY_CARD)
    if any(form.get(name) != value for name, value in _PUBLISHED.items()):
        has = f"{form.get('kind')}{', norm ' + str(form['norm']) if 'norm' in form else ''}"
        return {}, [f"the adversary ({has}; it has patchgan, norm batch)"]
    return {f"{_PREFIX}{name}": tensor for name, tensor in read_tensors(folder / ADVERSARY_WEIGHTS).items()}, []


def _places(source: Path) -> tuple[Path, ...]:
    """Beside the tokenizer: in the run, which is the folder itself or the one that holds it."""
    return source / ADVERSARY_FOLDER, source.resolve().parent / ADVERSARY_FOLDER


def _form(card: Path) -> dict[str, Any]:
    content = read_json(card)
    form = content.get("adversary") if isinstance(content, dict) else None
    if not isinstance(form, dict):
        raise MageKitError(f"{card}: must say what the adversary is")
    return form
