"""Models of this program into files that other people's code reads."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic, write_tensors
from mage_kit.base.grid import TokenGrid
from mage_kit.legacy import TOKENIZER_PREFIX, Exported, Origin, export_part, plain_vit
from mage_kit.models.classifier import MageClassifier
from mage_kit.models.mage import Mage
from mage_kit.store.exported_adversary import adversary_tensors
from mage_kit.store.folders import read_origin, require_folder
from mage_kit.store.loading import load_any
from mage_kit.tokenizers import Tokenizer

Part = Literal["model", "tokenizer", "encoder"]
_PYTORCH = (".pth", ".pt", ".ckpt")
_SAFE = ".safetensors"
_WITH_ADVERSARY = ("taming", "vqgan")
_LARGEST = 1024  # tokens a side


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Args:
        file: The file.
        layout: Published layout, or "plain_vit".
        tensors: How many.
        values: How many in all.
        dtypes: In use.
        filled: What holds nothing trained here.
        left_out: Tensors of ours that the layout has no room for.
        flags: Options that converting the file again needs.
    """

    file: Path
    layout: str
    tensors: int
    values: int
    dtypes: tuple[str, ...]
    filled: list[str]
    left_out: list[str]
    flags: list[str]


def export(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    part: Part = "model",
    layout: str | None = None,
    grid: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write a model in the published layout, or its encoder as a plain ViT.

    Of a tokenizer that was trained with an adversary, that one is written too, where the layout has room for it.

    Args:
        folder: Model, run, classifier or tokenizer folder.
        out: File: .pth, .pt or .ckpt for PyTorch, .safetensors.
        part: "model" all of it, "tokenizer" alone, "encoder" under a plain ViT's names (.safetensors).
        layout: What it must be written in: vqgan, taming, llamagen, mage, mage_classifier; None: what the module has.
        grid: With "encoder": rows and columns of tokens that positions are interpolated to.
        overwrite: Replace a file.

    Raises:
        MageKitError: If the layout cannot hold the model, or the file exists.
    """
    source, target = Path(folder), Path(out)
    _check_target(target, part, overwrite)
    if grid is not None:
        _check_grid(grid, part)
    require_folder(source)
    module = load_any(source)
    if part == "encoder":
        if not isinstance(module, Mage | MageClassifier):
            raise MageKitError(f"folder: '{source}', holds a tokenizer, which has no such encoder")
        if layout is not None:
            raise MageKitError(f"layout: '{layout}', goes with no part 'encoder', which has a plain ViT's names")
        tensors, metadata = plain_vit(module, None if grid is None else TokenGrid(*grid))
        write_tensors(target, tensors, metadata)
        return _report(target, "plain_vit", tensors)
    origin = read_origin(source)
    if part == "tokenizer" and not isinstance(module, Tokenizer):
        module, origin = module.tokenizer, _origin_of_tokenizer(origin)
    content = export_part(module, origin)
    if layout not in (None, content.layout):
        rule = f"this is a {type(module).__name__}, whose layout is {content.layout}"
        raise MageKitError(f"layout: '{layout}', must be {content.layout}; {rule}")
    if content.layout in _WITH_ADVERSARY:
        tensors, lines = adversary_tensors(source)
        content = replace(content, tensors={**content.tensors, **tensors}, left_out=[*content.left_out, *lines])
    _write(target, content)
    return _report(target, content.layout, content.tensors, content)


def _check_target(target: Path, part: str, overwrite: bool) -> None:
    if part not in ("model", "tokenizer", "encoder"):
        raise MageKitError(f"part: '{part}', must be model, tokenizer or encoder")
    if target.suffix not in (*_PYTORCH, _SAFE) or (part == "encoder" and target.suffix != _SAFE):
        raise MageKitError(
            f"out: '{target}', must end in {_SAFE}{'' if part == 'encoder' else ', ' + ', '.join(_PYTORCH)}"
        )
    if target.is_dir():
        raise MageKitError(f"out: '{target}', is a folder, must be a file")
    if target.exists() and not overwrite:
        raise MageKitError(f"out: '{target}', exists; choose another or give --overwrite")


def _write(target: Path, content: Exported) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == _SAFE:
        write_tensors(target, content.tensors)
    else:
        with atomic(target) as temporary:
            try:
                torch.save({content.container: content.tensors}, temporary)
            except RuntimeError as error:  # torch's words for a full disk
                raise MageKitError(f"out: '{target}', cannot be written; is the disk full? ({error})") from None


def _check_grid(grid: tuple[int, int], part: str) -> None:
    sides = isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(side, int) for side in grid)
    if not sides or not all(1 <= side <= _LARGEST for side in grid):
        raise MageKitError(f"grid: {grid!r}, must be (rows, columns), each between 1 and {_LARGEST}")
    if part != "encoder":
        raise MageKitError(f"grid: {grid[0]}x{grid[1]}, goes with part 'encoder' alone")


def _origin_of_tokenizer(origin: Origin | None) -> Origin | None:
    """What a model's card says of the tokenizer inside it: the dtypes."""
    if origin is None:
        return None
    dtypes = {
        name.removeprefix(TOKENIZER_PREFIX): dtype
        for name, dtype in origin.card.get("other_dtypes", {}).items()
        if name.startswith(TOKENIZER_PREFIX)
    }
    return Origin({**origin.card, "layout": "vqgan", "other_dtypes": dtypes}, {})


def _report(file: Path, layout: str, tensors: dict[str, Tensor], content: Exported | None = None) -> ExportReport:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    values = sum(tensor.numel() for tensor in tensors.values())
    additions, left_out, flags = ([], [], []) if content is None else (content.filled, content.left_out, content.flags)
    return ExportReport(file, layout, len(tensors), values, tuple(dtypes), additions, left_out, flags)
