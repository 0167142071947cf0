"""Named streams of tokens: those of a model's tokenizer, and those of others that losses predict.

The model's own tokenizer gives "tokens" (and what else it has under its own names); another one, called NAME, gives
NAME, its tokens, and NAME/STREAM for the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from mage_kit.base.doors import is_recording
from mage_kit.base.errors import MageKitError
from mage_kit.base.grid import TokenSpec
from mage_kit.base.precision import full_convolutions
from mage_kit.tokenizers.base import TOKENS, Tokenizer

TOKENISED_AT_ONCE = 64  # images, in training: a VQGAN's activations are far larger than a ViT's


def stream_specs(tokenizer: Tokenizer, targets: Mapping[str, Tokenizer]) -> dict[str, TokenSpec]:
    """Return every stream that a model may see or predict.

    Args:
        tokenizer: The model's own.
        targets: Others, by name.
    """
    specs = dict(tokenizer.streams)
    for name, other in targets.items():
        specs |= {_name_of(name, stream): spec for stream, spec in other.streams.items()}
    return specs


def encode_streams(
    tokenizer: Tokenizer, targets: Mapping[str, Tokenizer], names: Collection[str], images_BCHW: Tensor
) -> dict[str, Tensor]:
    """Return streams of images by name; each tokenizer that is needed sees the images once.

    Args:
        tokenizer: The model's own.
        targets: Others, by name.
        names: Of the streams wanted.
        images_BCHW: float images in [0, 1].

    Returns:
        By name int64 ids (B, L) or (B, L, F), or float32 values (B, L, W).
    """
    streams: dict[str, Tensor] = {}
    own = [name for name in tokenizer.streams if name in names]
    if own:
        streams |= _encoded(tokenizer, own, images_BCHW)
    for name, other in targets.items():
        own_names = [stream for stream in other.streams if _name_of(name, stream) in names]
        if own_names:
            tokens = _encoded(other, own_names, images_BCHW)
            streams |= {_name_of(name, stream): tokens[stream] for stream in own_names}
    return {name: streams[name] for name in names}


def _encoded(tokenizer: Tokenizer, names: Sequence[str], images_BCHW: Tensor) -> Mapping[str, Tensor]:
    """Encode, and hold a tokenizer to what its specs say; ids are looked at where looking costs nothing, on a CPU.

    Raises:
        MageKitError: If a stream is absent, of another shape or type, or an id is no code.
    """
    is_tensor = isinstance(images_BCHW, Tensor)  # the tokenizer says what is wrong with anything else
    with full_convolutions(images_BCHW.device if is_tensor else torch.device("cpu")):
        tokens = tokenizer.encode_streams(images_BCHW, names)
    for name in names:
        spec, values = tokenizer.streams[name], tokens.get(name)
        shape, kind = spec.shape(images_BCHW.shape[0]), torch.int64 if spec.discrete else torch.float32
        if not isinstance(values, Tensor) or tuple(values.shape) != shape or (spec.discrete and values.dtype != kind):
            form = f"{tuple(values.shape)} {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
            rule = f"must be {shape} {kind}, as its spec says"
            raise MageKitError(f"tokenizer: {type(tokenizer).__name__} gave {form} as the stream '{name}', {rule}")
        if spec.codes is not None and not is_recording() and values.device.type == "cpu" and values.numel():
            least, largest = int(values.min()), int(values.max())
            if least < 0 or largest >= spec.codes:
                rule = f"must be from 0 to {spec.codes - 1}"
                raise MageKitError(f"tokenizer: {type(tokenizer).__name__} gave ids {least} to {largest}, {rule}")
    return tokens


def tokenizer_of(stream: str, targets: Collection[str]) -> str | None:
    """Return the name of the other tokenizer that a stream comes from; None for the model's own."""
    before = stream.partition("/")[0]
    return before if before in targets else None


def _name_of(name: str, stream: str) -> str:
    return name if stream == TOKENS else f"{name}/{stream}"
