"""From a module of ours back to the published layout: what was imported returns bit for bit, the rest is filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.classifier import MageClassifier
from mage_kit.decoders import DECODERS
from mage_kit.encoders import ENCODERS
from mage_kit.errors import MageKitError
from mage_kit.legacy.forms import Rows
from mage_kit.legacy.layout import Layout, LayoutError, Options, Pair
from mage_kit.legacy.layouts import get_layout
from mage_kit.model import Mage
from mage_kit.paddings import PADDINGS
from mage_kit.registry import Registry
from mage_kit.tokenizers import TOKENIZERS, VQGAN, CodebookTokenizer, LlamaGenVQ, TamingVQGAN, Tokenizer

_SILENT = {"dropout", "weights"}  # keywords that no published file tells


@dataclass(frozen=True)
class Exported:
    """A module in the published layout.

    Args:
        layout: Its kind.
        container: Key under which PyTorch files keep the weights.
        tensors: By published name.
        filled: Names, and ranges of rows, that hold nothing trained: zeros, or counted positions.
        left_out: Tensors of ours that the layout has no room for.
    """

    layout: str
    container: str
    tensors: dict[str, Tensor]
    filled: list[str]
    left_out: list[str]


def export_part(
    part: Mage | MageClassifier | Tokenizer,
    card: Mapping[str, Any] | None = None,
    unused: Mapping[str, Tensor] | None = None,
) -> Exported:
    """Return a module's tensors in the published layout.

    Args:
        part: Model, classifier or tokenizer.
        card: Of an imported one, for its dtypes; where values changed since and do not fit them, all are float32.
        unused: Of an imported one: restored as they stood.

    Raises:
        MageKitError: If the layout cannot hold the module, or would read it back as another one; says where.
    """
    layout = get_layout(_kind_of(part))
    own = card if card is not None and card.get("layout") == layout.kind else None
    kept = dict(unused or {}) if own is not None else {}
    try:
        _check_kinds(part)
        pairs = layout.pairs(part)
        state = {name: _on_host(tensor) for name, tensor in part.state_dict().items()}
        tensors = {pair.theirs: pair.form.write(state[pair.ours], kept.get(pair.theirs)) for pair in pairs}
        extra = kept if own is not None else layout.filler(part)
        tensors |= {name: tensor for name, tensor in extra.items() if name not in tensors}
        _check_reads_back(part, layout, tensors)
    except LayoutError as error:
        raise MageKitError(f"layout '{layout.kind}' ({layout.title}) cannot hold this: {error}") from None
    rows = [pair for pair in pairs if isinstance(pair.form, Rows) and pair.theirs not in kept]
    filled = [*(_rows(pair) for pair in rows), *(extra if own is None else ())]
    left_out = sorted(state.keys() - {pair.ours for pair in pairs})
    return Exported(layout.kind, layout.container, _with_dtypes(tensors, own), filled, left_out)


def _kind_of(part: nn.Module) -> str:
    if isinstance(part, Mage):
        return "mage"
    if isinstance(part, MageClassifier):
        return "mage_classifier"
    if isinstance(part, TamingVQGAN):
        return "taming"
    return "llamagen" if isinstance(part, LlamaGenVQ) else "vqgan"


def _on_host(tensor: Tensor) -> Tensor:
    """On the CPU, or on the meta device, where a model is only planned."""
    return tensor.detach() if tensor.is_meta else tensor.detach().cpu()


def _check_kinds(part: Mage | MageClassifier | Tokenizer) -> None:
    """Refuse what no published layout has room for."""
    tokenizer = part if isinstance(part, Tokenizer) else part.tokenizer
    if isinstance(part, Mage | MageClassifier) and not isinstance(tokenizer, VQGAN):
        raise LayoutError(f"tokenizer is {type(tokenizer).__name__}, must be VQGAN")
    if not isinstance(tokenizer, CodebookTokenizer):
        raise LayoutError(f"tokenizer is {type(tokenizer).__name__}, must be one with a codebook")
    for name, (registry, component) in _components(part).items():
        if registry is not TOKENIZERS and registry.entry_of(component).kind not in ("vit", "class_token", "mask_token"):
            raise LayoutError(f"{name} is {type(component).__name__}, which it does not know")


def _components(part: Mage | MageClassifier | Tokenizer) -> dict[str, tuple[Registry[Any, Any], Any]]:
    """Registered parts by name, with their registries."""
    if isinstance(part, Tokenizer):
        return {"tokenizer": (TOKENIZERS, part)}
    found: dict[str, tuple[Registry[Any, Any], Any]] = {
        "tokenizer": (TOKENIZERS, part.tokenizer),
        "encoder": (ENCODERS, part.encoder),
    }
    if isinstance(part, Mage):
        found |= {"decoder": (DECODERS, part.decoder), "padding": (PADDINGS, part.padding)}
    return found


def _rows(pair: Pair) -> str:
    """Say which rows of a filled tensor hold nothing trained."""
    assert isinstance(pair.form, Rows)
    left = sorted(set(range(pair.form.total)) - set(pair.form.rows))
    return f"{pair.theirs} (rows {left[0]} to {left[-1]} that no code uses)"


def _check_reads_back(part: Mage | MageClassifier | Tokenizer, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    """Make sure that reading the file gives the same parts: what it cannot say must be what reading assumes."""
    parts = _components(part)
    heads = {name: getattr(component, "heads", None) for name, (_, component) in parts.items()}
    options = Options(
        image_size=parts["tokenizer"][1].image_size,
        encoder_heads=heads.get("encoder"),
        decoder_heads=heads.get("decoder"),
        padding=PADDINGS.entry_of(part.padding).kind if isinstance(part, Mage) else "class_token",
    )
    back = layout.fit({name: tensor.to("meta") for name, tensor in tensors.items()}, options).module
    assert isinstance(back, Mage | MageClassifier | Tokenizer)
    read = _components(back)
    found = [
        line
        for name, (registry, component) in parts.items()
        for line in _differences(name, registry, component, read[name][1])
    ]
    if found:
        raise LayoutError("; ".join(found))


def _differences(name: str, registry: Registry[Any, Any], ours: Any, theirs: Any) -> list[str]:
    slots = dict.fromkeys(registry.slot_fields)
    mine, read = registry.describe(ours, **slots), registry.describe(theirs, **slots)
    silent = _SILENT | getattr(ours, "training_only", frozenset())
    return [
        f"{name}.{key} is {mine.get(key)}, reading would make it {read.get(key)}"
        for key in mine
        if key not in silent and mine.get(key) != read.get(key)
    ]


def _with_dtypes(tensors: dict[str, Tensor], card: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """In the dtypes of the source where that changes no value, else as they are."""
    if card is None:
        return {name: tensor.contiguous() for name, tensor in tensors.items()}
    wanted = {name: getattr(torch, card["other_dtypes"].get(name, card["dtype"])) for name in tensors}
    cast = {name: tensor.to(wanted[name]) for name, tensor in tensors.items()}
    exact = all(torch.equal(cast[name].to(tensor.dtype), tensor) for name, tensor in tensors.items())
    return {name: tensor.contiguous() for name, tensor in (cast if exact else tensors).items()}
