"""From a module of ours back to the published layout: what was imported returns bit for bit, the rest is filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mage_kit.base.errors import MageKitError
from mage_kit.base.registry import Registry
from mage_kit.decoders import DECODERS
from mage_kit.encoders import ENCODERS
from mage_kit.legacy import mae_tensors, mage_layout
from mage_kit.legacy.forms import Rows
from mage_kit.legacy.layout import Layout, LayoutError, Options, Pair
from mage_kit.legacy.layouts import get_layout
from mage_kit.legacy.mae_tensors import MEAN, STD
from mage_kit.legacy.origin import Origin
from mage_kit.legacy.vqgan_layout import DEFAULT_SIZE
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.paddings import PADDINGS, MaskTokenPadding
from mage_kit.quantizers import Codebook
from mage_kit.tokenizers import TOKENIZERS, VQGAN, CodebookTokenizer, LlamaGenVQ, Patches, TamingVQGAN, Tokenizer

_SILENT = {"dropout", "weights", "mlp_ratio"}  # not in the file, or, the last, compared as shapes already


@dataclass(frozen=True)
class Exported:
    """A module in the published layout.

    Args:
        layout: Its kind.
        container: Key under which PyTorch files keep the weights.
        tensors: By published name.
        filled: Names, and ranges of rows, that hold nothing trained: zeros, or counted positions.
        left_out: Tensors of ours that the layout has no room for.
        flags: What reading the file again has to be told, as command line options.
    """

    layout: str
    container: str
    tensors: dict[str, Tensor]
    filled: list[str]
    left_out: list[str]
    flags: list[str]


def export_part(
    part: Mage | MageClassifier | Tokenizer,
    origin: Origin | None = None,
) -> Exported:
    """Return a module's tensors in the published layout.

    Args:
        part: Model, classifier or tokenizer.
        origin: Of an imported one: unused tensors are restored as they stood, all in their dtypes; where values changed
            since and do not fit those, all are float32.

    Raises:
        MageKitError: If the layout cannot hold the module, or would read it back as another one; says where.
    """
    layout = get_layout(_kind_of(part))
    own = origin if origin is not None and origin.card.get("layout") == layout.kind else None
    leftovers = own.unused if own is not None else {}
    try:
        _check_kinds(part)
        pairs = layout.pairs(part)
        state = {name: _on_host(tensor) for name, tensor in part.state_dict().items()}
        tensors = {pair.theirs: pair.form.write(state[pair.ours], leftovers.get(pair.theirs)) for pair in pairs}
        extra = leftovers if own is not None else layout.filler(part)
        tensors |= {name: tensor for name, tensor in extra.items() if name not in tensors}
        _check_reads_back(part, layout, tensors)
    except LayoutError as error:
        raise MageKitError(f"layout '{layout.kind}' ({layout.title}) cannot hold this: {error}") from None
    rows = [pair for pair in pairs if isinstance(pair.form, Rows) and pair.theirs not in leftovers]
    filled = [*(_rows(pair) for pair in rows), *(extra if own is None else ())]
    left_out = sorted(state.keys() - {pair.ours for pair in pairs})
    return Exported(
        layout.kind,
        layout.container,
        _with_dtypes(tensors, {} if own is None else own.card),
        filled,
        left_out,
        _flags(part),
    )


def _kind_of(part: nn.Module) -> str:
    if isinstance(part, Mage | MageClassifier):
        form = "mae" if isinstance(part.tokenizer, Patches) else "mage"
        return form if isinstance(part, Mage) else f"{form}_classifier"
    if isinstance(part, TamingVQGAN):
        return "taming"
    return "llamagen" if isinstance(part, LlamaGenVQ) else "vqgan"


def _on_host(tensor: Tensor) -> Tensor:
    """On the CPU, or on the meta device, where a model is only planned."""
    return tensor.detach() if tensor.is_meta else tensor.detach().cpu()


def _check_kinds(part: Mage | MageClassifier | Tokenizer) -> None:
    """Refuse what no published layout has room for, all of it at once."""
    if not isinstance(part, Tokenizer) and isinstance(part.tokenizer, Patches):
        _check_mae(part)
        return
    tokenizer = part if isinstance(part, Tokenizer) else part.tokenizer
    if isinstance(part, Mage | MageClassifier) and not isinstance(tokenizer, VQGAN):
        raise LayoutError(f"tokenizer is {type(tokenizer).__name__}, must be VQGAN")
    if not isinstance(tokenizer, CodebookTokenizer):
        raise LayoutError(f"tokenizer is {type(tokenizer).__name__}, must be one with a codebook")
    rules = {"channels": 3, "norm_groups": 32}
    problems = [
        f"tokenizer.{name} is {getattr(tokenizer, name)}, it has {value}"
        for name, value in rules.items()
        if getattr(tokenizer, name) != value
    ]
    unit, codebook = isinstance(tokenizer, LlamaGenVQ), tokenizer.quantize
    if not isinstance(codebook, Codebook) or codebook.unit != unit:
        has = TOKENIZERS.describe(tokenizer, weights=None)["quantizer"]
        problems.append(f"tokenizer.quantizer is {has}, it has a codebook with unit {str(unit).lower()}")
    for name, (registry, component) in _components(part).items():
        if registry is not TOKENIZERS and registry.entry_of(component).kind not in ("vit", "class_token", "mask_token"):
            problems.append(f"{name} is {type(component).__name__}, which it does not know")
    if isinstance(part, Mage) and part.decoder is None:
        problems.append("decoder is null, it has one (the encoder alone: part 'encoder')")
    if problems:
        raise LayoutError("; ".join(problems))


def _check_mae(part: Mage | MageClassifier) -> None:
    """Refuse what MAE's layout has no room for."""
    tokenizer, embedding = part.tokenizer, part.embedding.config
    assert isinstance(tokenizer, Patches)
    rules = {"channels": 3, "mean": MEAN, "std": STD}
    problems = [
        f"tokenizer.{name} is {getattr(tokenizer, name)}, it has {value}"
        for name, value in rules.items()
        if getattr(tokenizer, name) != value
    ]
    if embedding.norm:
        problems.append("embedding.norm is true, it has none")
    for name, (registry, component) in _components(part).items():
        if registry is not TOKENIZERS and registry.entry_of(component).kind not in ("vit", "mask_token"):
            problems.append(f"{name} is {type(component).__name__}, which it does not know")
    if problems:
        raise LayoutError("; ".join(problems))


def _components(part: Mage | MageClassifier | Tokenizer) -> dict[str, tuple[Registry[Any, Any], Any]]:
    """Registered parts by name, with their registries."""
    if isinstance(part, Tokenizer):
        return {"tokenizer": (TOKENIZERS, part)}
    parts: dict[str, tuple[Registry[Any, Any], Any]] = {
        "tokenizer": (TOKENIZERS, part.tokenizer),
        "encoder": (ENCODERS, part.encoder),
    }
    if isinstance(part, Mage):
        others: dict[str, tuple[Registry[Any, Any], Any]] = {
            "decoder": (DECODERS, part.decoder),
            "padding": (PADDINGS, part.padding),
        }
        parts |= {name: pair for name, pair in others.items() if pair[1] is not None}
    return parts


def _rows(pair: Pair) -> str:
    """Say which rows of a filled tensor hold nothing trained."""
    assert isinstance(pair.form, Rows)
    spare = sorted(set(range(pair.form.total)) - set(pair.form.rows))
    return f"{pair.theirs} (rows {spare[0]} to {spare[-1]} that no code uses)"


def _check_reads_back(part: Mage | MageClassifier | Tokenizer, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    """Make sure that reading the file, with the options of `_flags`, gives the same parts."""
    parts = _components(part)
    heads = {name: getattr(component, "heads", None) for name, (_, component) in parts.items()}
    options = Options(
        image_size=parts["tokenizer"][1].image_size,
        encoder_heads=heads.get("encoder"),
        decoder_heads=heads.get("decoder"),
        padding=_padding_option(part),
    )
    back = layout.fit({name: tensor.to("meta") for name, tensor in tensors.items()}, options).module
    assert isinstance(back, Mage | MageClassifier | Tokenizer)
    components = _components(back)
    problems = [
        line
        for name, (registry, component) in parts.items()
        for line in _differences(name, registry, component, components[name][1])
    ]
    if problems:
        raise LayoutError("; ".join(problems))


def _padding_option(part: Mage | MageClassifier | Tokenizer) -> str:
    """What MAGE's files do not tell of the decoder's input; MAE's is always one mask token."""
    if not isinstance(part, Mage) or part.padding is None or isinstance(part.tokenizer, Patches):
        return "class_token"
    return PADDINGS.entry_of(part.padding).kind


def _flags(part: Mage | MageClassifier | Tokenizer) -> list[str]:
    """What no tensor of the file tells, and reading would assume otherwise."""
    tokenizer = part if isinstance(part, Tokenizer) else part.tokenizer
    (height, width), flags = tokenizer.image_size, []
    if (isinstance(part, Tokenizer) and (height, width) != DEFAULT_SIZE) or height != width:
        flags.append(f"--image-size {height}x{width}")
    known = mae_tensors if isinstance(tokenizer, Patches) else mage_layout
    for name, heads in (("encoder", known.ENCODER_HEADS), ("decoder", known.DECODER_HEADS)):
        component: Any = getattr(part, name, None)
        if not isinstance(part, Tokenizer) and component is not None and heads.get(component.dim) != component.heads:
            flags.append(f"--{name}-heads {component.heads}")
    if known is mage_layout and isinstance(part, Mage) and isinstance(part.padding, MaskTokenPadding):
        flags.append("--padding mask_token")
    return flags


def _differences(name: str, registry: Registry[Any, Any], ours: Any, theirs: Any) -> list[str]:
    slots = dict.fromkeys(registry.slot_fields)
    mine, back = registry.describe(ours, **slots), registry.describe(theirs, **slots)
    silent = _SILENT | (getattr(ours, "weightless", frozenset()) - {"image_size"})
    if {mine["kind"], back["kind"]} <= getattr(ours, "alike", frozenset()):
        silent.add("kind")
    return [
        f"{name}.{key} is {mine.get(key)}, reading would make it {back.get(key)}"
        for key in mine
        if key not in silent and mine.get(key) != back.get(key)
    ]


def _with_dtypes(tensors: dict[str, Tensor], card: Mapping[str, Any]) -> dict[str, Tensor]:
    """In the dtypes of the source where that changes no value, else all numbers in float32."""
    dtypes = {name: _dtype(card, name) or tensor.dtype for name, tensor in tensors.items()}
    exact = all(_fits(tensor, dtypes[name]) for name, tensor in tensors.items())
    out = {}
    for name, tensor in tensors.items():
        dtype = dtypes[name] if exact else torch.float32 if tensor.is_floating_point() else tensor.dtype
        out[name] = tensor.to(dtype).contiguous()
    return out


def _dtype(card: Mapping[str, Any], name: str) -> torch.dtype | None:
    """The source's dtype of a tensor, where the card tells; float64 was rounded when it was read."""
    dtype = getattr(torch, str(card.get("other_dtypes", {}).get(name, card.get("dtype"))), None)
    return dtype if isinstance(dtype, torch.dtype) and dtype != torch.float64 else None


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.dtype == dtype or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)
