"""From a published checkpoint to a module of ours, in memory, with an account of every tensor."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.classifier import MageClassifier
from mage_kit.errors import MageKitError
from mage_kit.legacy.layout import Fitted, Layout, LayoutError, Options
from mage_kit.legacy.layouts import LAYOUTS, get_layout, recognise
from mage_kit.legacy.source import Source, read_source
from mage_kit.model import Mage
from mage_kit.tokenizers import Tokenizer

TOKENIZER_PREFIX = "vqgan."


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as a module.

    Args:
        part: Model, classifier or tokenizer, in float32 and evaluation mode.
        card: Where it came from and what became of each tensor, for card.json.
        unused: Tensors that nothing here reads, as they stood in the file; of tables with unused rows the whole.
    """

    part: Mage | MageClassifier | Tokenizer
    card: dict[str, Any]
    unused: dict[str, Tensor]


def import_checkpoint(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    vqgan: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> Imported:
    """Read a published checkpoint.

    Args:
        path: PyTorch, safetensors or flax file.
        layout: Its layout; None recognises it by its tensors' names.
        vqgan: File with the tokenizer, for a checkpoint that holds none; a model's checkpoint will do.
        options: What the file does not say.

    Raises:
        MageKitError: If the file is damaged, wants to run code, or does not fit its layout; says which it fits.
    """
    options = options or Options()
    if options.padding not in ("class_token", "mask_token"):
        raise MageKitError(f"padding: '{options.padding}', must be class_token or mask_token")
    source = read_source(Path(path))
    tensors, sources = source.tensors, [source]
    chosen = get_layout(layout) if layout is not None else _recognised(source)
    if vqgan is not None:
        tokenizer = read_source(Path(vqgan))
        tensors = _with_tokenizer(source, tokenizer, chosen)
        sources.append(tokenizer)
    try:
        fitted = chosen.fit(tensors, options)
    except LayoutError as error:
        raise MageKitError(_misfit(source, chosen, str(error))) from None
    _check_finite(source, tensors)
    part = _filled(fitted)
    unused = {item.name: tensors[item.name].detach().contiguous().clone() for item in fitted.unused}
    return Imported(part, _card(sources, chosen, fitted, tensors), unused)


def _recognised(source: Source) -> Layout:
    layout = recognise(source.tensors)
    if layout is None:
        names = ", ".join(sorted(source.tensors)[:4])
        kinds = "; ".join(f"{kind}: {known.title}" for kind, known in LAYOUTS.items())
        raise MageKitError(f"{source.path}: looks like none of the known layouts ({kinds}); it holds {names}, ...")
    return layout


def _with_tokenizer(source: Source, tokenizer: Source, layout: Layout) -> dict[str, Tensor]:
    """The checkpoint's tensors with the tokenizer's among them."""
    if layout.container != "model" or not layout.kind.startswith("mage"):
        raise MageKitError(f"vqgan: given, but {source.path} is itself {layout.title}; leave it out")
    found = {name: tensor for name, tensor in tokenizer.tensors.items() if name.startswith(TOKENIZER_PREFIX)}
    if not found:
        other = recognise(tokenizer.tensors)
        if other is not None and other.kind != "vqgan":
            raise MageKitError(
                f"vqgan: {tokenizer.path} is {other.title} (layout '{other.kind}'); MAGE's tokenizer has layout 'vqgan'"
            )
        found = {TOKENIZER_PREFIX + name: tensor for name, tensor in tokenizer.tensors.items()}
    own = {name for name in source.tensors if name.startswith(TOKENIZER_PREFIX)}
    if own and any(name not in found or not torch.equal(source.tensors[name], found[name]) for name in own):
        raise MageKitError(
            f"vqgan: {tokenizer.path} is another tokenizer than {source.path} was trained with and holds"
        )
    return {**found, **source.tensors}


def _misfit(source: Source, layout: Layout, problem: str) -> str:
    """What does not fit, and which layout would."""
    other = recognise(source.tensors)
    lines = [f"{source.path}: does not fit layout '{layout.kind}' ({layout.title})"]
    lines += [line if line.startswith("  ") else f"  {line}" for line in problem.split("\n")]
    if other is not None and other.kind != layout.kind:
        lines.append(f"it looks like {other.title}: give --layout {other.kind}")
    return "\n".join(lines)


def _check_finite(source: Source, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise MageKitError(f"{source.path}: {name} holds values that are not finite; the checkpoint is damaged")


def _filled(fitted: Fitted) -> Mage | MageClassifier | Tokenizer:
    """The module with its weights, in float32 memory of its own."""
    state = {name: tensor.detach().to(torch.float32, copy=True).contiguous() for name, tensor in fitted.state.items()}
    module = fitted.module
    module.load_state_dict(state, assign=True)
    assert isinstance(module, Mage | MageClassifier | Tokenizer)
    assert all(not tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    if isinstance(module, Tokenizer):
        module.requires_grad_(False)
    return module.eval()


def _card(sources: list[Source], layout: Layout, fitted: Fitted, tensors: dict[str, Tensor]) -> dict[str, Any]:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    usual = dtypes.most_common(1)[0][0]
    named = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    return {
        "sources": [
            {
                "file": source.path.name,
                "sha256": source.sha256,
                "format": source.format,
                "weights_under": source.container,
            }
            for source in sources
        ],
        "layout": layout.kind,
        "tensors": len(tensors),
        "values": sum(tensor.numel() for tensor in tensors.values()),
        "values_loaded": fitted.loaded,
        "unused": [
            {"name": item.name, "shape": list(item.shape), "values": item.values, "reason": item.reason}
            for item in fitted.unused
        ],
        "not_weights": list(sources[0].beside),
        "dtype": usual,
        "other_dtypes": {name: dtype for name, dtype in named.items() if dtype != usual},
        "mage_kit": version("mage-kit"),
    }
