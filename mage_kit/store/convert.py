"""Published checkpoints into folders of this program."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mage_kit.base.progress import Reporter
from mage_kit.legacy import Options, import_checkpoint
from mage_kit.store.folders import check_replaceable, save, save_tokenizer
from mage_kit.tokenizers import Tokenizer


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Args:
        folder: Model or tokenizer folder.
        what: "Mage", "MageClassifier" or the tokenizer's class.
        card: Where the weights came from and what became of each tensor; also in card.json.
    """

    folder: Path
    what: str
    card: dict[str, Any]


def convert(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layout: str | None = None,
    weights: str | None = None,
    prefix: str | None = None,
    vqgan: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | None = None,
    encoder_heads: int | None = None,
    decoder_heads: int | None = None,
    padding: str = "class_token",
    ignore: tuple[str, ...] = (),
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Converted:
    """Write a published checkpoint as a model, classifier or tokenizer folder.

    Args:
        checkpoint: PyTorch, safetensors or flax file; a *.safetensors.index.json with its files; a diffusers folder.
        out: Folder to write: recipe, weights, card.json, and legacy.safetensors with what nothing here reads.
        layout: Layout of the file; None recognises it.
        weights: Key of a PyTorch file under which the weights stand; None: averaged ones before others.
        prefix: What stands before the names of the weights; None: the only one below which a known layout stands.
        vqgan: File with the tokenizer, for a checkpoint that holds none.
        image_size: Height and width in pixels; None: square for models, 256 x 256 for bare tokenizers.
        encoder_heads: None: by the published width.
        decoder_heads: None: by the published width.
        padding: What filled the decoder's input in training: "class_token" or "mask_token".
        ignore: Prefixes of tensors to leave unused.
        overwrite: Replace a model folder.
        reporter: Where progress goes.

    Raises:
        MageKitError: If the file is damaged, wants to run code, or does not fit; says which layout it fits.
    """
    reporter, target = reporter or Reporter(), Path(out)
    check_replaceable(target, overwrite)
    reporter.say(f"reading {checkpoint}")
    result = import_checkpoint(
        checkpoint,
        layout=layout,
        weights=weights,
        prefix=prefix,
        vqgan=vqgan,
        options=Options(image_size, encoder_heads, decoder_heads, padding, ignore),
    )
    for line in (*result.container_notes, *result.prefix_notes):
        reporter.say(line)
    origin = result.origin
    if isinstance(result.part, Tokenizer):
        save_tokenizer(result.part, target, overwrite=overwrite, origin=origin)
    else:
        save(result.part, target, overwrite=overwrite, origin=origin)
    return Converted(target, type(result.part).__name__, origin.card)
