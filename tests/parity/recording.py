"""What the published implementation computed, recorded in a folder; every size comes from its expected.json."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import mage_kit as mk
from mage_kit.legacy import Imported, Options, import_checkpoint

DATA = Path(__file__).parent / "data"
FOLDER = Path(os.environ.get("MAGE_PARITY_DIR", DATA / "mini"))
FINETUNED = sorted(FOLDER.glob("finetuned*.pth"))
CLOSE = 1e-5


@dataclass(frozen=True)
class Recording:
    """The recorded model as ours, with what it should compute."""

    sizes: dict[str, Any]
    tensors: dict[str, Tensor]
    imported: Imported

    @property
    def model(self) -> mk.Mage:
        assert isinstance(self.imported.part, mk.Mage)
        return self.imported.part

    @property
    def images(self) -> Tensor:
        return self.tensors["images_uint8"].float() / 255

    @property
    def ids(self) -> Tensor:
        return self.tensors["token_ids"].long()


def checkpoint() -> Path:
    (path,) = (path for path in FOLDER.glob("*.pth") if path not in FINETUNED)
    return path


def options(sizes: dict[str, Any]) -> Options:
    return Options(encoder_heads=sizes["encoder"]["heads"], decoder_heads=sizes["decoder"]["heads"])


@functools.cache
def recording() -> Recording:
    sizes = json.loads((FOLDER / "expected.json").read_text())
    imported = import_checkpoint(checkpoint(), options=options(sizes))
    return Recording(sizes, load_file(FOLDER / "expected.safetensors"), imported)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over the norm."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())
