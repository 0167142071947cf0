"""Named sets of real images to compare with: features, and a manifest that says what they were made of.

A reference kept as JPEG, or cropped by another filter, moves the Fréchet distance by more than most papers differ
(13.74 against 11.18 in the authors' tracker). Legend: J images, D features.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from mage_kit.base.digests import arrays_digest
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.files import write_tensors
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset, ImageFolder
from mage_kit.datasets.stills import broken_facts, still_batches
from mage_kit.evaluation.generation_metrics.extractor import Extractor
from mage_kit.evaluation.generation_metrics.moments import Moments
from mage_kit.images.image_files import load_image, upright_size
from mage_kit.images.transforms import Augment

_KEY = "mage_kit_reference"
_LOSSLESS = frozenset({"PNG", "BMP", "PPM", "TIFF"})
_BATCH = 64
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"})


@dataclass(frozen=True)
class Reference:
    """Real images as an extractor sees them.

    Args:
        features_JD: float32.
        mean_D: float64.
        cov_DD: float64.
        manifest: Count, codecs, crop, filter, hash of the images, extractor.
    """

    features_JD: Tensor
    mean_D: Tensor
    cov_DD: Tensor
    manifest: dict[str, Any]


def make_reference(
    folder: Path,
    out: Path,
    extractor: Extractor,
    *,
    size: tuple[int, int],
    channels: int = 3,
    name: str | None = None,
    force: bool = False,
    levels: int | None = None,
    reporter: Reporter | None = None,
) -> Reference:
    """Look at all images of a folder and write features and manifest.

    Args:
        folder: Of images, flat or in sub-folders.
        out: File to write, .safetensors.
        extractor: Gives the features.
        size: Height and width that images are brought to: the largest centred box, resized bicubic.
        channels: Of the model's images.
        name: Of the set; None for the folder's.
        levels: Of deep pictures, from black to white; None for those of their files' type.
        force: Take lossy, mixed or resized files all the same; the manifest says so.
        reporter: Where progress goes.

    Raises:
        MageKitError: If files are lossy, of several codecs, of other sizes or copies, unless `force`; or broken.
    """
    bicubic = Augment(filter="bicubic")
    images = ImageFolder(size, channels, path=str(folder), augment=bicubic, max_broken=0.0, levels=levels)
    manifest = {"name": name or folder.resolve().name, **look_at(images)}
    _refuse(folder, manifest["problems"], force)
    manifest |= _look_at_pixels(images, manifest["problems"], reporter or Reporter())
    _refuse(folder, manifest["problems"], force)  # before the work: reading all images costs little beside it
    moments, parts = None, []
    with (reporter or Reporter()).task("reference images", len(images)) as task:
        for views in view_batches(images, []):
            features, _ = extractor(views)
            moments = moments or Moments.empty(features.shape[1], features.device)
            moments.add(features)
            parts.append(features.cpu())
            task.update(int(moments.count))
    assert moments is not None
    mean_D, cov_DD = (part.cpu() for part in moments.gaussian())
    manifest |= {"extractor": extractor.describe(), "forced": bool(manifest["problems"])}
    reference = Reference(torch.cat(parts), mean_D, cov_DD, manifest)
    tensors = {"features": reference.features_JD, "mean": mean_D, "cov": cov_DD}
    notes = {**manifest, "tensors_sha256": _digest(manifest, tensors)}
    write_tensors(out, tensors, {_KEY: json.dumps(notes, sort_keys=True)})
    return reference


def read_reference(file: Path, extractor: Extractor, size: tuple[int, int], channels: int | None = None) -> Reference:
    """Read a reference set.

    Args:
        file: As `make_reference` wrote it.
        extractor: That is to be compared by; the reference must be of the same.
        size: Height and width of what is compared.
        channels: Of what is compared; None for whatever the reference has.

    Raises:
        MageKitError: If it is none, or of another extractor, size, or grey where colour is compared.
    """
    try:
        with safe_open(file, "pt") as reader:
            manifest = json.loads((reader.metadata() or {})[_KEY])
            tensors = {name: reader.get_tensor(name) for name in ("features", "mean", "cov")}
        is_whole = manifest.pop("tensors_sha256") == _digest(manifest, tensors)
    except Exception:  # whatever is wrong with it
        raise MageKitError(f"reference: '{file}', must be a file of mage-kit eval reference") from None
    if not is_whole:
        raise MageKitError(f"reference: '{file}', is damaged: its features are not what was written; make it again")
    here, there = extractor.describe(), manifest["extractor"]
    differing = [name for name in ("sha256", "side", "values") if here[name] != there[name]]
    if differing:
        other = f"{manifest['extractor']['name']} ({str(manifest['extractor']['sha256'])[:12]})"
        raise MageKitError(f"reference: '{file}', was made by another extractor: {other}, other {', '.join(differing)}")
    if manifest["size"] != list(size):
        raise MageKitError(f"reference: '{file}', holds images of {manifest['size']}, compared are {list(size)}")
    if channels is not None and (manifest.get("channels", channels) == 1) != (channels == 1):
        theirs, mine = ("grey", "colour") if channels != 1 else ("colour", "grey")  # extractors see no fourth channel
        raise MageKitError(f"reference: '{file}', holds {theirs} images, compared are {mine} ones; see --grey")
    return Reference(tensors["features"], tensors["mean"], tensors["cov"], manifest)


def _digest(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    words = json.dumps(manifest, sort_keys=True)
    return hashlib.sha256(f"{words}\0{arrays_digest({k: v.numpy() for k, v in tensors.items()})}".encode()).hexdigest()


def _refuse(folder: Path, problems: list[str], force: bool) -> None:
    """Raise for what speaks against comparing with a folder, unless it is taken all the same."""
    if problems and not force:
        lines = "\n".join(f"  {line}" for line in problems)
        raise MageKitError(
            f"reference '{folder}': not fit to compare with:\n{lines}\n--force takes it, and each result says so"
        )


def _look_at_pixels(images: Dataset, problems: list[str], reporter: Reporter) -> dict[str, Any]:
    """Read all images once: their digest and number; what speaks against comparing with them is added to the problems.

    Raises:
        MageKitError: If none can be read.
    """
    digest, prints, count = hashlib.sha256(), set[bytes](), 0
    broken: list[BrokenImageError] = []
    with reporter.task("looking at images", len(images)) as task:
        for views in view_batches(images, broken):
            digest.update(views.numpy().tobytes())
            prints.update(hashlib.blake2b(view.numpy().tobytes(), digest_size=16).digest() for view in views)
            count += len(views)
            task.update(count)
    if not count:
        raise MageKitError(f"data: no image could be read, of {len(images)}; the last: {broken[-1]}")
    if broken:
        problems.append(f"{len(broken)} of {len(images)} files cannot be read, as {broken[0]}")
    if copies := count - len(prints):
        problems.append(f"{copies} of {count} images are copies of others")
    return {"pixels_sha256": digest.hexdigest(), "count": count, **broken_facts(broken, images)}


def view_batches(images: Dataset, broken: list[BrokenImageError]) -> Iterator[Tensor]:
    """Yield the evaluation views of all images, uint8 (I, C, H, W), in their order.

    Args:
        images: Where they come from.
        broken: What is wrong with those that cannot be read is added here.
    """
    parts = [range(start, min(start + _BATCH, len(images))) for start in range(0, len(images), _BATCH)]
    for stills in still_batches(images, parts):
        broken += stills.broken
        if stills.samples:
            yield torch.from_numpy(np.stack([sample.views[0] for sample in stills.samples]))


def _is_coloured(image: Image.Image) -> bool:
    """Whether any pixel of an RGB picture is; a grey one may be stored so."""
    pixels = np.asarray(image)
    return bool((pixels != pixels[..., :1]).any())


def look_at(images: Dataset) -> dict[str, Any]:
    """Read all headers: codecs, sizes, colours, and what speaks against comparing with such images.

    Args:
        images: To be brought to their data set's size and channels.
    """
    size, codecs = images.image_size, Counter[str]()
    others = in_colour = 0
    for index in range(len(images)):
        with contextlib.suppress(BrokenImageError, OSError), images.image(index) as image:  # told when it is read
            codecs[f"{image.format}{'' if image.format in _LOSSLESS else ' (lossy)'}"] += 1
            others += upright_size(image) != (size[1], size[0])
            if images.channels == 1 and image.mode not in _GREY_MODES:
                picture = load_image(image, images.name(index), 3, levels=images.levels, remarks=[])
                in_colour += _is_coloured(picture)
    problems = [
        f"{count} of {len(images)} files are {codec}: save them as PNG"
        for codec, count in codecs.items()
        if "lossy" in codec
    ]
    if len(codecs) > 1:
        problems.append(f"files of several codecs: {', '.join(sorted(codecs))}")
    if others:
        problems.append(
            f"{others} of {len(images)} files are not {size[1]} x {size[0]} pixels, and would be cropped and resized"
        )
    if in_colour:
        problems.append(f"{in_colour} of {len(images)} files are in colour, and would be turned grey")
    if images.passed_over:
        problems.append(f"{len(images.passed_over)} files are no images, as {images.passed_over[0][0]}")
    return {
        "count": len(images),
        "codecs": dict(codecs),
        "size": list(size),
        "channels": images.channels,
        "greyed": in_colour,
        "crop": "largest centred box" if others else "none",
        "filter": "bicubic" if others else "none",
        "resized": others,
        "problems": problems,
    }
