"""What the parts of a model demand of one another; a recipe names both paths where they do not fit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, Protocol

from torch import nn

from mage_kit.base.errors import PartsError
from mage_kit.base.grid import TokenSpec
from mage_kit.decoders import Decoder, DecoderWires
from mage_kit.encoders import Encoder
from mage_kit.heads import Head
from mage_kit.losses import Loss
from mage_kit.mask_ratios import MaskRatio
from mage_kit.paddings import Padding, PaddingWires
from mage_kit.tokenizers import Tokenizer
from mage_kit.tokenizers.streams import tokenizer_of


class Assembled(Protocol):
    """What the rules look at of a model."""

    tokenizer: Tokenizer
    targets: Any
    streams: dict[str, TokenSpec]
    spec: TokenSpec
    input: str
    encoder: Encoder
    decoder: Decoder | None
    padding: Padding | None
    losses: Any
    heads: Any
    mask_ratio: MaskRatio
    drop: float | Literal["lowest"]
    reads: tuple[str, ...]

    @property
    def drop_share(self) -> float:
        """Share of tokens dropped."""
        ...

    @property
    def n_dropped(self) -> int:
        """Tokens dropped from each image."""
        ...


def check_parts(model: Assembled) -> None:
    """Compare what each part was made for with what it meets.

    Raises:
        PartsError: If two parts do not fit; names both.
    """
    _check_wires(model)
    if not model.losses and model.decoder is not None:
        raise PartsError(("losses",), "none given, must be at least one: the decoder would predict for nobody")
    _check_streams(model)
    for number, loss in enumerate(model.losses):
        assert isinstance(loss, Loss)
        _check_loss(model, number, loss)
    _check_masks(model)
    if model.decoder is not None and model.padding is not None:
        _check_sight(model, model.decoder, model.padding)


def _check_wires(model: Assembled) -> None:
    for part, name, value, holder in _wires(model):
        own = getattr(holder, name, value)
        if own != value:
            source = {"num_tokens": "tokenizer", "dim": "decoder"}.get(name, "encoder")
            raise PartsError((part, source), f"{type(holder).__name__} was made for {name} {own}, must be {value}")


def _wires(model: Assembled) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (part, name, the value it has to have, holder)."""
    if model.decoder is not None:
        wires = DecoderWires(model.encoder.dim, model.spec.grid.size)
        yield "decoder", "encoder_dim", wires.encoder_dim, model.decoder
        yield "decoder", "num_tokens", wires.num_tokens, model.decoder
        yield "padding", "dim", PaddingWires(model.decoder.dim).dim, model.padding
    for loss in model.losses:
        yield "losses", "encoder_dim", model.encoder.dim, loss


def _check_streams(model: Assembled) -> None:
    """Every stream that is read lies on the same grid, so that one mask serves them all."""
    targets: Mapping[str, Tokenizer] = dict(model.targets.items())
    for stream in model.reads:
        grid = model.streams[stream].grid
        if grid != model.spec.grid:
            owner = tokenizer_of(stream, targets)
            part = "tokenizer" if owner is None else f"targets.{owner}"
            raise PartsError((part, "tokenizer"), f"stream '{stream}' has {grid} tokens, must be {model.spec.grid}")
    for name, other in targets.items():
        if (other.image_size, other.channels) != (model.tokenizer.image_size, model.tokenizer.channels):
            mine, theirs = ((*each.image_size, each.channels) for each in (model.tokenizer, other))
            rule = f"images of {theirs} (height, width, channels), must be {mine}"
            raise PartsError((f"targets.{name}", "tokenizer"), rule)


def check_target_names(names: Collection[str], streams: Collection[str]) -> None:
    """Raise PartsError for a name that another tokenizer cannot have.

    Args:
        names: Of the targets.
        streams: Of the model's own tokenizer.
    """
    for name in names:
        if name in streams:
            raise PartsError((f"targets.{name}", "tokenizer"), f"'{name}' is a stream of the tokenizer's; rename it")
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
            rule = "must be a word of letters, digits and underscores, and no attribute of torch's modules"
            raise PartsError((f"targets.{name}",), f"'{name}', {rule}")


def _check_loss(model: Assembled, number: int, loss: Loss) -> None:
    part = f"losses[{number}]"
    if not loss.reads_predictions:
        return
    if model.decoder is None:
        raise PartsError(
            (part, "decoder"), f"{type(loss).__name__} reads predictions, there is no decoder to make them"
        )
    spec, head = model.streams[loss.stream], model.heads[loss.stream]
    other = tokenizer_of(loss.stream, list(model.targets))
    source = model.tokenizer if other is None else model.targets[other]
    for thing, where in ((loss, (part,)), (head, (f"heads.{loss.stream}",))):
        if thing.needs_codes is not None and thing.needs_codes != spec.discrete:
            has, wants = (
                "codes" if codes else "continuous tokens" for codes in (spec.discrete, bool(thing.needs_codes))
            )
            what = "tokenizer" if other is None else f"targets.{other}"
            raise PartsError(
                (*where, what), f"{type(thing).__name__} needs {wants}, {type(source).__name__} gives {has}"
            )
    assert isinstance(head, Head)
    if head.spec != spec:
        rule = f"must be for stream '{loss.stream}' ({spec})"
        raise PartsError((f"heads.{loss.stream}",), f"{type(head).__name__} was made for {head.spec}, {rule}")
    if loss.needs_codes and not head.gives_logits:
        rule = f"{type(loss).__name__} needs logits over codes, {type(head).__name__} gives none; use masked_prediction"
        raise PartsError((part, f"heads.{loss.stream}"), rule)
    if loss.needs_codes is False and not head.gives_values:
        rule = f"{type(loss).__name__} needs values, {type(head).__name__} gives none; use masked_prediction"
        raise PartsError((part, f"heads.{loss.stream}"), rule)
    wires = {"decoder_dim": model.decoder.dim, "encoder_dim": model.encoder.dim, "is_input": loss.stream == model.input}
    for name, value in wires.items():
        if (own := getattr(head, name, value)) != value:
            rule = f"{type(head).__name__} was made for {name} {own}, must be {value}"
            raise PartsError((f"heads.{loss.stream}",), rule)


def _check_masks(model: Assembled) -> None:
    if not (isinstance(model.drop, str) or 0 <= model.drop <= 1):
        raise PartsError(("drop",), f"{model.drop}, must lie in [0, 1] or be 'lowest'")
    if model.drop_share > model.mask_ratio.low:
        raise PartsError(
            ("mask_ratio", "drop"),
            f"ratios go down to {model.mask_ratio.low:g}, but {model.drop_share:g} of the tokens are dropped: "
            "dropped tokens must be masked ones, so let the smallest ratio be at least the drop, or drop 'lowest'",
        )
    if model.n_dropped >= model.spec.grid.size:
        raise PartsError(
            ("drop", "tokenizer"),
            f"all {model.spec.grid.size} tokens are dropped, must leave at least one",
        )


def _check_sight(model: Assembled, decoder: Decoder, padding: Padding) -> None:
    """Something of the image must reach the predictions."""
    blind = model.n_dropped > 0 or padding.replace_seen
    if blind and not decoder.mixes and not padding.informed:
        raise PartsError(
            ("decoder", "padding"),
            f"{type(decoder).__name__} looks at one position at a time and {type(padding).__name__} "
            "fills masked ones with the same vector for every image: nothing of the image would reach the "
            "predictions; use drop 0 with replace_seen false, or another decoder",
        )
