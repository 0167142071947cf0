"""Distances of generated and of reconstructed images to real ones, named so that they cannot be taken for others.

gFID is a model's, rFID a tokenizer's; both need an extractor file, whose SHA-256 stands in the result. Fewer than
10,000 images give a smoke figure, and its name says so. Legend: I images, C channels, H x W pixels, D features.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mage_kit.base import processes
from mage_kit.base.errors import BrokenImageError, MageKitError
from mage_kit.base.progress import Reporter
from mage_kit.base.version import versions
from mage_kit.datasets import Dataset, ImageFolder
from mage_kit.datasets.stills import broken_facts
from mage_kit.evaluation.generation_metrics import (
    Extractor,
    Moments,
    Reference,
    frechet,
    inception_score,
    kernel_distance,
    precision_recall,
)
from mage_kit.evaluation.generation_metrics.distances import NEIGHBOURS, as_dict
from mage_kit.evaluation.generation_metrics.reference import look_at, view_batches
from mage_kit.generation import Labels, Sampler, generation_precision, prepare_to_generate
from mage_kit.images.transforms import Augment
from mage_kit.models.decoding import DecodingChanges
from mage_kit.models.mage import Mage
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import pixel_levels
from mage_kit.store.folders import RECIPE_FILE, best_device, weights_digest
from mage_kit.store.loading import load_tokenizer
from mage_kit.tokenizers import Tokenizer

HONEST = 10_000  # images below which a distance says little: its bias grows with 1 / images
_BATCH = 64
_KEPT = 50_000  # images whose features are kept for KID, precision and recall


@dataclass
class Gathered:
    """Images as the extractor saw them, of one process.

    Args:
        moments: Of all.
        parts: (first image's number, features, logits or None) of the first images.
        prints: How often each image came, by hash.
    """

    moments: Moments | None = None
    parts: list[tuple[int, Tensor, Tensor | None]] = field(default_factory=list)
    prints: Counter[bytes] = field(default_factory=Counter)

    def add(self, images_ICHW: Tensor, first: int, extractor: Extractor) -> None:
        """Take in uint8 images, the first of which has this number among all."""
        features, logits = extractor(images_ICHW)
        self.moments = self.moments or Moments.empty(features.shape[1], extractor.where)
        self.moments.add(features)
        if first < _KEPT:
            self.parts.append((first, features.cpu(), None if logits is None else logits.cpu()))
        for image in images_ICHW.cpu():
            self.prints[hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()] += 1


def generated_quality(
    model: Mage,
    reference: Reference,
    extractor: Extractor,
    n: int,
    *,
    seed: int = 0,
    labels: Labels = None,
    weights: str = "raw",
    batch: int = _BATCH,
    changes: DecodingChanges | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Generate images and measure them against a reference set; all processes share the work.

    Args:
        model: A model that generates.
        reference: Real images.
        extractor: The one that saw them.
        n: Images to generate.
        seed: Image i follows (seed, i) alone, in whatever process.
        labels: Of conditional models.
        weights: "raw" or "ema", for the result.
        batch: Images at once.
        changes: Of the model's decoding.
        reporter: Where progress goes.

    Returns:
        The result, ready for JSON: its `name` says what the figure is.
    """
    if n < 2:
        raise MageKitError(f"n: {n}, must be at least 2")
    source = Sampler(model, seed=seed, labels=labels, batch=batch, **(changes or {}))
    own, starts = Gathered(), range(0, n, batch)

    def work() -> None:
        task_ = (reporter or Reporter()).task(f"generating {n} images", n)
        with prepare_to_generate(model, min(n, batch), "auto"), task_ as task:
            for start in starts[processes.rank() :: processes.world()]:
                count = min(batch, n - start)
                own.add(_bytes(source.make(start, count).images_BCHW), start, extractor)
                task.update(start + count)

    processes.all_or_none(work)
    result = _compare(own, reference, "gFID", n, extractor, seed)
    return {
        **result,
        "images": n,
        "seed": seed,
        "weights": weights,
        "weights_sha256": weights_digest(model),
        "decoding": source.decoding.describe(),
        "labels": "each class in turn" if labels is None and model.classes else labels,
        "generation_precision": generation_precision("auto", model).value,
    }


def reconstructed_quality(
    tokenizer: Tokenizer, images: Dataset, extractor: Extractor, *, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Measure a tokenizer's reconstructions of images against these.

    Args:
        tokenizer: A trained one.
        images: Real ones, brought to the tokenizer's size.
        extractor: Gives the features.
        reporter: Where progress goes.
    """
    real, reconstructions = Gathered(), Gathered()
    device = next(iter(tokenizer.state_dict().values())).device
    with (reporter or Reporter()).task("reconstructing", len(images)) as task:
        done, digest, broken = 0, hashlib.sha256(), list[BrokenImageError]()
        for views in view_batches(images, broken):
            digest.update(views.numpy().tobytes())
            real.add(views, done, extractor)
            with torch.no_grad():
                again = tokenizer.decode(tokenizer.encode(views.to(device).float() / 255))
            reconstructions.add(_bytes(again), done, extractor)
            done += len(views)
            task.update(done)
    if real.moments is None or real.moments.count < 2:
        last = f"; cannot be read: {broken[-1]}" if broken else ""
        raise MageKitError(f"data: {len(images) - len(broken)} images, a distance needs at least 2{last}")
    mean_D, cov_DD = (part.cpu() for part in real.moments.gaussian())
    facts = broken_facts(broken, images)
    manifest = {"name": "the originals", **look_at(images), **facts, "count": int(real.moments.count), "forced": False}
    manifest["pixels_sha256"] = digest.hexdigest()
    reference = Reference(torch.cat([features for _, features, _ in real.parts]), mean_D, cov_DD, manifest)
    result = _compare(reconstructions, reference, "rFID", int(real.moments.count), extractor, 0)
    return {**result, **facts, "images": int(real.moments.count), "tokenizer_sha256": weights_digest(tokenizer)}


def tokenizer_and_images(source: Path, data: Path, max_broken: float = 0.0) -> tuple[Tokenizer, Dataset]:
    """Load a tokenizer, or a run's, and a folder of images at its size.

    Args:
        source: Tokenizer, run or model folder, or a published checkpoint.
        data: Folder of images.
        max_broken: Share of them that may be broken.
    """
    tokenizer, recipe = load_tokenizer(source, best_device()), source / RECIPE_FILE
    images = ImageFolder(
        tokenizer.image_size,
        tokenizer.channels,
        path=str(data),
        augment=Augment(filter="bicubic"),
        max_broken=max_broken,
        levels=pixel_levels(Recipe.load(recipe)) if recipe.is_file() else None,
    )
    return tokenizer, images


def figure_name(
    kind: Literal["gFID", "rFID"], images: int, reference: dict[str, Any], duplicates: int, features: int = 0
) -> str:
    """Return what a figure is to be called: what speaks against taking it at face value stands in its name."""
    remarks = []
    if images < HONEST:
        remarks.append(f"SMOKE FIGURE of {images:,} images, comparable with nothing")
    elif reference["count"] < HONEST:
        remarks.append(f"reference of {reference['count']:,} images")
    if min(images, reference["count"]) <= features:
        remarks.append(f"no more images than the {features:,} features, so covariances are singular")
    if reference.get("greyed"):
        remarks.append(f"{reference['greyed']:,} images in colour turned grey")
    if reference.get("forced"):
        remarks.append("reference forced")
    if broken := reference.get("broken_images"):
        remarks.append(f"{broken:,} images that cannot be read left out")
    if duplicates:
        remarks.append(f"{duplicates:,} duplicates")
    return f"{kind} ({'; '.join(remarks)})" if remarks else kind


def _compare(
    own: Gathered, reference: Reference, kind: Literal["gFID", "rFID"], count: int, extractor: Extractor, seed: int
) -> dict[str, Any]:
    """Join the processes' images, in their order, and compare them; the first process does."""
    width = reference.mean_D.shape[0]
    moments = (own.moments or Moments.empty(width, extractor.where)).of_all()
    parts = processes.collect((own.parts, own.prints))
    measures: dict[str, Any] = {}
    prints: Counter[bytes] = sum((each for _, each in parts), Counter())
    duplicates = count - len(prints)
    if processes.is_first():
        mean_D, cov_DD = (part.cpu() for part in moments.gaussian())
        measures["frechet"] = frechet((mean_D, cov_DD), (reference.mean_D, reference.cov_DD))
        in_order = sorted((part for theirs, _ in parts for part in theirs), key=lambda part: part[0])
        measures |= _by_image(in_order, reference.features_JD[:_KEPT], extractor.where, seed)
    return {
        "name": figure_name(kind, count, reference.manifest, duplicates, width),
        "features": width,
        "images_above_features": min(count, int(reference.manifest["count"])) > width,
        "kind": kind,
        "protocol": f"8-bit images; KID, precision, recall and score over the first {_KEPT:,}",
        "comparable": count >= HONEST
        and reference.manifest["count"] >= HONEST
        and not any(reference.manifest.get(name) for name in ("forced", "greyed", "broken_images")),
        "rows": {"images": as_dict(measures)},
        "duplicates": duplicates,
        "most_frequent": max(prints.values(), default=0),
        "extractor": extractor.describe(),
        "reference": reference.manifest,
        "versions": versions(),
    }


def _by_image(
    parts: list[tuple[int, Tensor, Tensor | None]], real_JD: Tensor, device: torch.device, seed: int
) -> dict[str, Any]:
    """Measure what needs the features of single images."""
    features, real_JD = torch.cat([part for _, part, _ in parts]).to(device), real_JD.to(device)
    logits = [part for _, _, part in parts if part is not None]
    measures: dict[str, Any] = {
        "kid": kernel_distance(features, real_JD, seed=seed),
        "inception_score": inception_score(torch.cat(logits), seed=seed) if logits else None,
    }
    if min(len(features), len(real_JD)) > NEIGHBOURS:
        measures["precision"], measures["recall"] = precision_recall(features, real_JD)
    return measures


def _bytes(images_ICHW: Tensor) -> Tensor:
    """As a PNG would hold them."""
    return (images_ICHW.detach().clamp(0, 1) * 255).byte()
