"""What the parts of a model demand of one another; a recipe names both paths where they do not fit."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from mage_kit.decoders import Decoder, DecoderWires
from mage_kit.encoders import Encoder
from mage_kit.errors import PartsError
from mage_kit.grid import TokenSpec
from mage_kit.losses import Loss, LossWires
from mage_kit.mask_ratios import MaskRatio
from mage_kit.paddings import Padding, PaddingWires
from mage_kit.tokenizers import Tokenizer


class Assembled(Protocol):
    """What the rules look at of a model."""

    tokenizer: Tokenizer
    spec: TokenSpec
    encoder: Encoder
    decoder: Decoder
    padding: Padding
    losses: Any
    mask_ratio: MaskRatio
    drop: float | Literal["lowest"]

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
    wires: list[tuple[str, str, Any, Any]] = [
        ("decoder", "encoder_dim", DecoderWires(model.encoder.dim, model.spec.grid.size), model.decoder),
        ("decoder", "num_tokens", DecoderWires(model.encoder.dim, model.spec.grid.size), model.decoder),
        ("padding", "dim", PaddingWires(model.decoder.dim), model.padding),
        *(("losses", "encoder_dim", LossWires(model.spec, model.encoder.dim), loss) for loss in model.losses),
    ]
    for part, name, wanted, holder in wires:
        held = getattr(holder, name, getattr(wanted, name))
        if held != getattr(wanted, name):
            source = {"num_tokens": "tokenizer", "dim": "decoder"}.get(name, "encoder")
            raise PartsError(
                (part, source),
                f"{type(holder).__name__} was made for {name} {held}, must be {getattr(wanted, name)}",
            )
    if not model.losses:
        raise PartsError(("losses",), "none given, must be at least one")
    for number, loss in enumerate(model.losses):
        assert isinstance(loss, Loss)
        if loss.needs_codes is not None and loss.needs_codes != model.spec.discrete:
            has = "codes" if model.spec.discrete else "continuous tokens"
            wants = "codes" if loss.needs_codes else "continuous tokens"
            raise PartsError(
                (f"losses[{number}]", "tokenizer"),
                f"{type(loss).__name__} needs {wants}, {type(model.tokenizer).__name__} gives {has}",
            )
    if not (isinstance(model.drop, str) or 0 <= model.drop <= 1):
        raise PartsError(("drop",), f"{model.drop}, must lie in [0, 1] or be 'lowest'")
    if model.drop_share > model.mask_ratio.low:
        raise PartsError(
            ("mask_ratio", "drop"),
            f"ratios go down to {model.mask_ratio.low:g}, but {model.drop_share:g} of the tokens are dropped: "
            "dropped tokens must be masked ones, so let the smallest ratio be at least the drop, or drop 'lowest'",
        )
    blind = model.n_dropped > 0 or model.padding.replace_seen
    if blind and not model.decoder.mixes and not model.padding.informed:
        raise PartsError(
            ("decoder", "padding"),
            f"{type(model.decoder).__name__} looks at one position at a time and {type(model.padding).__name__} "
            "fills masked ones with the same vector for every image: nothing of the image would reach the "
            "predictions; use drop 0 with replace_seen false, or another decoder",
        )
    if model.n_dropped >= model.spec.grid.size:
        raise PartsError(
            ("drop", "tokenizer"),
            f"all {model.spec.grid.size} tokens are dropped, must leave at least one",
        )
