"""An audit of a tokenizer on images, as files: figures, a verdict in words, and the worst images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mage_kit.base.errors import MageKitError
from mage_kit.base.files import atomic_folder, check_writable, write_json
from mage_kit.base.progress import Reporter
from mage_kit.base.version import versions
from mage_kit.datasets.base import fingerprint
from mage_kit.evaluation.generation_metrics.reference import look_at
from mage_kit.evaluation.image_quality import tokenizer_and_images
from mage_kit.evaluation.tokenizer_audit import Audit, audit, verdict
from mage_kit.images.pictures import labelled_rows, save_picture
from mage_kit.store.folders import weights_digest

_OWN = frozenset({"audit.json", "worst.png"})
_SMALL = 64  # pixels: smaller images are enlarged


def audit_files(source: Path, data: Path, out: Path, *, overwrite: bool, reporter: Reporter) -> dict[str, Any]:
    """Audit a tokenizer on a folder of images.

    Args:
        source: Tokenizer, run or model folder, or a published checkpoint.
        data: Folder of images.
        out: Folder to write: audit.json, worst.png.
        overwrite: Replace an earlier audit.
        reporter: Where progress goes.

    Returns:
        The contents of audit.json.

    Raises:
        MageKitError: If the folder holds something else, or there is no tokenizer, or no image.
    """
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if held - _OWN or (held and not overwrite) or out.is_file():
        raise MageKitError(
            f"out: '{out}', is not empty; choose another folder, or replace an earlier audit by --overwrite"
        )
    check_writable(out)
    tokenizer, images = tokenizer_and_images(source, data, max_broken=1.0)
    found = replace(audit(tokenizer, images, reporter=reporter), greyed=look_at(images)["greyed"])
    result = {
        "tokenizer": str(source),
        "tokenizer_sha256": weights_digest(tokenizer),
        "data": str(data),
        "data_sha256": fingerprint(images),
        "versions": versions(),
        **found.as_dict(),
        "verdict": verdict(found),
        "worst": {images.name(place): round(float(score), 3) for place, score in _worst(found)},
    }
    with atomic_folder(out) as temporary:
        write_json(temporary / "audit.json", result)
        rows = [
            (text, torch.stack([torch.from_numpy(pair[place]) for pair in found.pairs]).float() / 255)
            for place, text in enumerate(("worst images", "their reconstructions"))
        ]
        scale = 2 if max(tokenizer.image_size) <= _SMALL else 1
        save_picture(labelled_rows(rows, scale=scale), temporary / "worst.png")
    return result


def _worst(found: Audit) -> list[tuple[int, float]]:
    ordered = sorted(found.psnr_I)
    return list(zip(found.worst, ordered[: len(found.worst)], strict=True))
