"""What follows from a model's parts without being asked for: which streams it reads, and which head a stream has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mage_kit.base.errors import PartsError
from mage_kit.base.grid import TokenSpec
from mage_kit.heads import CodeHead, Head, ValueHead
from mage_kit.losses import Loss


def read_streams(input: str, losses: Iterable[Any], streams: Mapping[str, TokenSpec]) -> tuple[str, ...]:
    """Return the streams that a training pass needs: what the encoder sees, then what losses look at.

    Raises:
        PartsError: If a loss names a stream that no tokenizer gives.
    """
    names = [input]
    for number, loss in enumerate(losses):
        assert isinstance(loss, Loss)
        for name in loss.reads:
            if name not in streams:
                choices = ", ".join(streams)
                raise PartsError((f"losses[{number}]", "tokenizer"), f"stream '{name}', must be one of {choices}")
            names.append(name)
    return tuple(dict.fromkeys(names))


def default_head(spec: TokenSpec, decoder_dim: int, encoder_dim: int, is_input: bool) -> Head:
    """Return the head that a stream calls for: logits over codes, or values.

    Args:
        spec: Of the stream.
        decoder_dim: Width E.
        encoder_dim: Width D.
        is_input: Whether the encoder sees the same stream.
    """
    return CodeHead(spec, decoder_dim, encoder_dim, is_input) if spec.discrete else ValueHead(spec, decoder_dim)
