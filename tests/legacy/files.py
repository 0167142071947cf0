"""Published-format files of the recordings, and what tests of them share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mage_kit as mk
from mage_kit.legacy import Options, import_checkpoint
from tests.parity.recording import DATA

Run = Callable[..., tuple[int, str, str]]
MINI = DATA / "mini" / "mage_mini.pth"
FINETUNED = DATA / "mini" / "finetuned_mini.pth"
TAMING = DATA / "taming" / "taming_mini.ckpt"
HEADS = ["--encoder-heads", "4", "--decoder-heads", "4"]
OPTIONS = Options(encoder_heads=4, decoder_heads=4)


def refused(path: Path, match: str, **keywords: Any) -> str:
    with pytest.raises(mk.MageKitError, match=match) as caught:
        import_checkpoint(path, **{"options": OPTIONS, **keywords})
    return str(caught.value)


def same_tokens(part: Any) -> None:
    images = load_file(DATA / "mini" / "expected.safetensors")
    assert isinstance(part, mk.Mage)
    assert torch.equal(part.tokenizer.encode(images["images_uint8"].float() / 255), images["token_ids"])
