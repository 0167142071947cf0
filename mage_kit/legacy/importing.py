"""From a published checkpoint to a module of ours, in memory, with an account of every tensor."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.version import __version__
from mage_kit.legacy.foreign import foreign_below
from mage_kit.legacy.layout import Fitted, Layout, LayoutError, Options
from mage_kit.legacy.layouts import LAYOUTS, get_layout, recognise
from mage_kit.legacy.mage_layout import TOKENIZER_PREFIX
from mage_kit.legacy.origin import Origin
from mage_kit.legacy.source import Source, read_source
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.recipes.resizing import at_size, resize_words
from mage_kit.tokenizers import Tokenizer

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as a module.

    Args:
        part: Model, classifier or tokenizer, in float32 and evaluation mode.
        origin: Where it came from, and what of it nothing here reads.
        container_notes: Which weights of a file are read where it has several and nobody chose, a line each.
        prefix_notes: What a prefix leaves out of the files, a line each.
    """

    part: Mage | MageClassifier | Tokenizer
    origin: Origin
    container_notes: tuple[str, ...] = ()
    prefix_notes: tuple[str, ...] = ()


def import_checkpoint(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    vqgan: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> Imported:
    """Read a published checkpoint.

    Args:
        path: PyTorch, safetensors or flax file; a *.safetensors.index.json with its files; a diffusers folder.
        layout: Its layout; None recognises it by its tensors' names.
        weights: Key of a PyTorch file under which the weights stand; None: averaged ones before others.
        prefix: What stands before the names of the weights; None: the only one below which a known layout stands.
        vqgan: File with the tokenizer, for a checkpoint that holds none; a model's checkpoint will do.
        options: What the file does not say.

    Raises:
        MageKitError: If the file is damaged, wants to run code, or does not fit its layout; says which it fits.
    """
    source = read_source(Path(path), weights, prefix, layout)
    return _import(
        source,
        _layout_of(source, layout),
        options or Options(),
        None if vqgan is None else read_source(Path(vqgan)),
    )


def _import(source: Source, layout: Layout, options: Options, tokenizer: Source | None = None) -> Imported:
    tensors = source.tensors if tokenizer is None else _with_tokenizer(source, tokenizer, layout)
    sources = [source] if tokenizer is None else [source, tokenizer]
    _refuse_foreign(source)
    try:
        fit = layout.fit(tensors, _with_settings(options, source))
        layout.check_settings(fit.module, source.settings)
    except LayoutError as error:
        raise MageKitError(_misfit(source, layout, str(error))) from None
    names = {pair.theirs for pair in fit.pairs}
    for name in sorted(names):
        _check_values(source if name in source.tensors else sources[-1], name, tensors[name])
    part, size = _load(fit), options.image_size
    card = _card(sources, layout, fit, tensors, options)
    if size is not None and isinstance(part, Mage | MageClassifier) and size != part.tokenizer.image_size:
        old, part = part.spec.grid, at_size(part, size)
        card |= {"image_size": list(size), "image_size_from": f"the option; {resize_words(old, part.spec.grid)}"}
    leftovers = {item.name: tensors[item.name].detach().contiguous().clone() for item in fit.unused}
    return Imported(
        part,
        Origin(card, leftovers),
        tuple(each.container_note for each in sources if each.container_note),
        tuple(each.prefix_note for each in sources if each.prefix_note),
    )


def import_tokenizer(
    path: str | os.PathLike[str],
    *,
    layout: str | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    options: Options | None = None,
) -> Imported:
    """Read a tokenizer's own file, or the tokenizer inside a model's checkpoint; where a layout is given, all of it.

    See `import_checkpoint`.

    Raises:
        MageKitError: As there, or if the file holds no tokenizer.
    """
    source = read_source(Path(path), weights, prefix, layout)
    inside = {
        name.removeprefix(TOKENIZER_PREFIX): tensor
        for name, tensor in source.tensors.items()
        if name.startswith(TOKENIZER_PREFIX)
    }
    if inside and layout is None:
        size = (options or Options()).image_size  # heads and padding say nothing of a tokenizer
        return _import(dataclasses.replace(source, tensors=inside), get_layout("vqgan"), Options(size))
    return _import(source, _layout_of(source, layout), options or Options())


def _layout_of(source: Source, kind: str | None) -> Layout:
    """The layout asked for, or the one that the file looks like."""
    if kind is not None:
        return get_layout(kind)
    if source.layout is None:
        _refuse_foreign(source)
        if source.tensors.keys() & {"embedding.table", "token_embed.weight"}:
            raise MageKitError(f"{source.path}: is this program's own file; read its folder with mage_kit.load")
        names = ", ".join(sorted(source.tensors)[:4])
        title = source.settings.get("_class_name")
        raise MageKitError(
            f"{source.path}: holds {names}, ...: looks like none of the known layouts ({', '.join(LAYOUTS)})"
            + (f"; config.json calls it {title!r}" if isinstance(title, str) else "")
        )
    return source.layout


def _refuse_foreign(source: Source) -> None:
    """Call by its name what looks like a known layout and is none."""
    foreign = foreign_below(source.path, {name: tuple(tensor.shape) for name, tensor in source.tensors.items()})
    if foreign is not None:
        prefix, sentence = foreign
        place = source.prefix + prefix
        raise MageKitError(f"{source.path}: {sentence}" + (f" (below the prefix '{place}')" if place else ""))


def _with_settings(options: Options, source: Source) -> Options:
    """What no shape tells, and a file beside the weights does."""
    groups = source.settings.get("norm_num_groups")
    if groups is None:
        return options
    try:
        return dataclasses.replace(options, norm_groups=groups)
    except MageKitError:
        raise LayoutError(f"config.json: norm_num_groups is {groups!r}, must be a positive number") from None


def _with_tokenizer(source: Source, tokenizer: Source, layout: Layout) -> dict[str, Tensor]:
    """The checkpoint's tensors with the tokenizer's among them."""
    if not layout.kind.startswith("mage"):
        raise MageKitError(f"vqgan: given, but {source.path} is itself {layout.title}; leave it out")
    tensors = {name: tensor for name, tensor in tokenizer.tensors.items() if name.startswith(TOKENIZER_PREFIX)}
    if not tensors:
        other = recognise(tokenizer.tensors)
        if other is not None and other.kind != "vqgan":
            route = "; convert it and export the folder as .ckpt first" if other.kind == "maskgit_jax" else ""
            raise MageKitError(
                f"vqgan: {tokenizer.path} is {other.title} (layout '{other.kind}'); "
                f"MAGE's tokenizer has layout 'vqgan'{route}"
            )
        plain, none = get_layout("vqgan"), Options()
        bare = {name: tensor for name, tensor in tokenizer.tensors.items() if plain.reason(name, none) is None}
        tensors = {TOKENIZER_PREFIX + name: tensor for name, tensor in bare.items()}
    own = {name for name in source.tensors if name.startswith(TOKENIZER_PREFIX)}
    if any(name not in tensors or not _same(source.tensors[name], tensors[name]) for name in own):
        raise MageKitError(
            f"vqgan: {tokenizer.path} is another tokenizer than {source.path} was trained with and holds"
        )
    return {**tensors, **source.tensors}


def _same(first: Tensor, second: Tensor) -> bool:
    """True for equal values, in the coarser of the two dtypes."""
    if first.shape != second.shape:
        return False
    coarser = min((first.dtype, second.dtype), key=lambda dtype: dtype.itemsize)
    return torch.equal(first.to(coarser), second.to(coarser))


def _misfit(source: Source, layout: Layout, problem: str) -> str:
    """What does not fit, and which layout would."""
    other = recognise(source.tensors)
    lines = [f"{source.path}: does not fit layout '{layout.kind}' ({layout.title})"]
    lines += [line if line.startswith("  ") else f"  {line}" for line in problem.split("\n")]
    if other is not None and other.kind != layout.kind:
        lines.append(f"it looks like {other.title}: give --layout {other.kind}")
    return "\n".join(lines)


def _check_values(source: Source, name: str, tensor: Tensor) -> None:
    """Refuse weights that are no real numbers, or do not fit float32."""
    if tensor.dtype not in _DTYPES:
        dtypes = ", ".join(map(str, _DTYPES))
        raise MageKitError(f"{source.path}: {name} is {tensor.dtype}, must be one of {dtypes}")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise MageKitError(f"{source.path}: {name} holds values that are not finite (in float32)")


def _load(fit: Fitted) -> Mage | MageClassifier | Tokenizer:
    """The module with its weights, in float32 memory of its own."""
    state = {name: tensor.detach().to(torch.float32, copy=True).contiguous() for name, tensor in fit.state.items()}
    module = fit.module
    module.load_state_dict(state, assign=True)
    assert isinstance(module, Mage | MageClassifier | Tokenizer)
    assert all(not tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    if isinstance(module, Tokenizer):
        module.requires_grad_(False)
    return module.eval()


def _card(
    sources: list[Source], layout: Layout, fit: Fitted, tensors: dict[str, Tensor], options: Options
) -> dict[str, Any]:
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    usual = Counter(dtypes.values()).most_common(1)[0][0]
    module: Any = fit.module
    size = module.image_size if isinstance(module, Tokenizer) else module.tokenizer.image_size
    return {
        "sources": [
            {
                "file": file,
                "sha256": digest,
                "format": source.format,
                "weights_under": source.container,
                "weights_not_read": list(source.rivals),
                "prefix": source.prefix,
                "outside_prefix": list(source.outside),
            }
            for source in sources
            for file, digest in source.hashes.items()
        ],
        "layout": layout.kind,
        "image_size": list(size),
        "image_size_from": "the option" if options.image_size else _size_source(module),
        "tensors": len(tensors),
        "values": sum(tensor.numel() for tensor in tensors.values()),
        "values_loaded": fit.values,
        "unused": [
            {"name": item.name, "shape": list(item.shape), "values": item.values, "reason": item.reason}
            for item in fit.unused
        ],
        "not_weights": list(sources[0].beside),
        "dtype": usual,
        "other_dtypes": {name: dtype for name, dtype in dtypes.items() if dtype != usual},
        "mage_kit": __version__,
    }


def _size_source(module: Mage | MageClassifier | Tokenizer) -> str:
    if isinstance(module, Tokenizer):
        return "no tensor tells it: the published default, unless image_size says otherwise"
    return "the number of positions, taken as a square"
