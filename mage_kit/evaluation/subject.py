"""What is evaluated: a run's model, and labelled images in two parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from mage_kit.base.draws import derive
from mage_kit.base.errors import BrokenImageError
from mage_kit.base.processes import first_ahead, is_first
from mage_kit.base.progress import Reporter
from mage_kit.base.version import versions
from mage_kit.datasets.stills import broken_facts
from mage_kit.evaluation.feature_cache import FeatureCache
from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.kinds import Kind, Precision, model_kinds, pixel_kind
from mage_kit.evaluation.splits import Split, folder_split, held_out, published_views
from mage_kit.models.mage import Mage
from mage_kit.recipes import Recipe, untrained_like
from mage_kit.recipes.answers import measured_images, parts_of, pixel_levels, training_views
from mage_kit.store.folders import RECIPE_FILE, best_device, require_folder, weights_digest
from mage_kit.store.loading import load
from mage_kit.store.run_folders import EVAL

FEATURES = Path(EVAL) / "features"
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A run under evaluation.

    Args:
        run: Its folder.
        recipe: Its recipe.
        model: Its model, in evaluation mode.
        split: Labelled images.
        cache: Features on disk.
        weights: "raw" or "ema".
        weights_sha256: Of the model's weights.
        precision: What features are computed in.
        reporter: Where progress goes.
        remarks: What was noticed of the images on the way, for results.
        broken: Images that could not be read, of "train" and "test".
    """

    run: Path
    recipe: Recipe
    model: Mage
    split: Split
    cache: FeatureCache
    weights: str
    weights_sha256: str
    precision: Precision
    reporter: Reporter
    remarks: list[str] = field(default_factory=list)
    broken: dict[str, list[BrokenImageError]] = field(default_factory=dict)

    def measured(
        self,
        sources: Sequence[FeatureSource],
        measure: Callable[[str, Features, Features], T],
        baselines: Sequence[FeatureSource] | None = (FeatureSource(),),
    ) -> dict[str, T]:
        """Measure (train, test) features of each source, one after another, and what they have to beat.

        All processes extract what is not there yet; the first alone measures, the others return nothing.

        Args:
            sources: Which features.
            measure: Of a label, and training and test features.
            baselines: Features of the same encoder with the recipe's first weights, beside raw pixels; None for
                neither.

        Returns:
            What was measured, by the features' label: "mean", "raw pixels", "untrained encoder".
        """
        prefix = "" if self.weights == "raw" else "ema"
        kinds = model_kinds(self.model, sources, called=prefix, precision=self.precision, weights=self.weights_sha256)
        kinds = [replace(kind, label=str(kind.source)) for kind in kinds]
        if baselines is not None:
            kinds += [pixel_kind(), *self._untrained(baselines)]
        parts = {"train": self.split.train, "test": self.split.test}
        for name, images in parts.items():
            self.cache.fill(name, images, kinds)
        if is_first():
            self._look_for_copies(kinds[0])
            self.broken.update({name: self.cache.broken(name, images, kinds[0]) for name, images in parts.items()})
        results = {}
        for kind in kinds if is_first() else ():
            train, test = (self.cache.read(name, images, kind) for name, images in parts.items())
            results[kind.label] = measure(kind.label, train, test)
            del train, test  # before the next are read
        return results

    def _look_for_copies(self, kind: Kind) -> None:
        """Remark on test images that are training images too, pixel for pixel: they flatter every figure."""
        train, test = (
            self.cache.prints(name, images, kind)
            for name, images in (("train", self.split.train), ("test", self.split.test))
        )
        copies = int(np.isin(test, train).sum())
        remark = f"{copies} of {len(test)} test images are training images too, pixel for pixel"
        if copies and remark not in self.remarks:
            self.remarks.append(remark)
            self.reporter.say(f"{remark}: figures are too good")

    def _untrained(self, sources: Sequence[FeatureSource]) -> list[Kind]:
        untrained = untrained_like(self.recipe, self.model)
        kinds = model_kinds(untrained, sources, called="untrained encoder", precision=self.precision)
        return [
            replace(kind, label="untrained encoder" if kind.source == FeatureSource() else kind.label) for kind in kinds
        ]

    def stated(self) -> dict[str, Any]:
        """Return what every result says of itself, ready for JSON."""
        return {
            "run": self.recipe.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "data": "; ".join([self.split.words, *self.remarks]),
            "data_sha256": self._digests()
            if is_first()
            else {},  # no collective: the first may have measured for hours
            "train_images": len(self.split.train),
            "test_images": len(self.split.test),
            **broken_facts([*chain(*self.broken.values())], self.split.train, self.split.test),
            "classes": self.split.classes,
            "precision": self.precision,
            "versions": versions(),
        }

    def _digests(self) -> dict[str, str]:
        return {"train": self.cache.digest(self.split.train), "test": self.cache.digest(self.split.test)}


def open_subject(
    run: Path,
    data: Path | None = None,
    *,
    weights: Literal["raw", "ema"] = "raw",
    precision: Precision = "float32",
    seed: int = 0,
    refresh: bool = False,
    model: Mage | None = None,
    reporter: Reporter | None = None,
) -> Subject:
    """Load a run and its images.

    Args:
        run: Run or model folder.
        data: Folder with train/ and val/, or with class folders; None for the run's own images: the part
            that it learned from and the one held out, or a fifth set aside.
        weights: Raw, or the running mean.
        precision: What features are computed in.
        seed: Of what is set aside.
        refresh: Extract features again that do not fit.
        model: The run's, where it is loaded already.
        reporter: Where progress goes.

    Raises:
        MageKitError: If there is no such run, or its images have no labels.
    """
    subject = partial(
        _open, run, data, weights, precision, seed, refresh=refresh, model=model, reporter=reporter or Reporter()
    )
    return first_ahead(subject)


def _open(
    run: Path,
    data: Path | None,
    weights: str,
    precision: Precision,
    seed: int,
    *,
    refresh: bool,
    model: Mage | None,
    reporter: Reporter,
) -> Subject:
    require_folder(run)
    model = model or load(run, best_device(), weights=weights)
    recipe = Recipe.load(run / RECIPE_FILE)
    size = model.tokenizer.image_size
    augment = published_views(training_views(recipe), size)
    if data is None and (parts := parts_of(recipe)) is not None:
        for images in parts:
            images.augment = augment
        split, name = Split(*parts, "the run's own images: those that it learned from, and those held out"), "own-parts"
    elif data is None:
        images = measured_images(recipe)
        images.augment = augment
        split = held_out(images, seed, "the run's own images")
        name = f"own-{seed}"
    else:
        split = folder_split(data, size, model.tokenizer.channels, augment, seed, levels=pixel_levels(recipe))
        name = f"{data.resolve().name}-{derive(0, str(data.resolve())):016x}-{seed}"
    cache = FeatureCache(run / FEATURES / name, refresh=refresh, reporter=reporter)
    return Subject(run, recipe, model, split, cache, weights, weights_digest(model), precision, reporter)
