"""Tokens are computed in whole float32 on a GPU too."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

import mage_kit as mk
from mage_kit.base.precision import full_convolutions
from mage_kit.tokenizers import streams


def test_tf32_is_off_inside_and_back_after_an_error() -> None:
    assert torch.backends.cudnn.allow_tf32, "torch's own default"
    with full_convolutions(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32, "nothing to keep whole"
    with full_convolutions(torch.device("cuda")):
        assert not torch.backends.cudnn.allow_tf32
    with contextlib.suppress(KeyError), full_convolutions(torch.device("cuda")):
        raise KeyError
    assert torch.backends.cudnn.allow_tf32


def test_tokens_are_made_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = mk.build(mk.Recipe.load("recipes/digits.json")).tokenizer
    seen, encode = [], tokenizer.encode_streams

    def note(images_BCHW: Tensor, names: Sequence[str]) -> Mapping[str, Tensor]:
        seen.append(torch.backends.cudnn.allow_tf32)
        return encode(images_BCHW, names)

    def on_a_gpu(device: torch.device) -> AbstractContextManager[None]:
        return full_convolutions(torch.device("cuda"))

    monkeypatch.setattr(tokenizer, "encode_streams", note)
    monkeypatch.setattr(streams, "full_convolutions", on_a_gpu)
    images = torch.rand(1, tokenizer.channels, *tokenizer.image_size)
    streams.encode_streams(tokenizer, {}, ["tokens"], images)
    assert seen == [False] and torch.backends.cudnn.allow_tf32
