"""Linear probe: logistic regression on frozen features, over stratified folds, best of the same strengths for all."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mage_kit.base.errors import MageKitError, MissingExtraError
from mage_kit.base.progress import Reporter
from mage_kit.datasets.base import fingerprint
from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.features import Features, extract, extract_features, labels_of, still_images
from mage_kit.recipes import Recipe, untrained_like
from mage_kit.recipes.answers import evaluation_of
from mage_kit.store.folders import RECIPE_FILE, best_device, require_folder, weights_digest
from mage_kit.store.loading import load

MOST_VALUES = 2**30  # pixels of all images, which raw pixels as a baseline need


@dataclass(frozen=True)
class Probe:
    """Accuracy of a linear probe.

    Args:
        top1: Mean accuracy over the folds, in [0, 1].
        std: Standard deviation over the folds.
        strength: The inverse regularisation strength that did best.
        folds: Number of folds.
    """

    top1: float
    std: float
    strength: float
    folds: int


def linear_probe(
    features: Features, *, folds: int = 5, strengths: Sequence[float] = (0.01, 0.1, 1.0), seed: int = 0
) -> Probe:
    """Fit a logistic regression on standardised features in each fold and test on the held-out part.

    Args:
        features: Frozen features and labels.
        folds: Stratified, shuffled folds; the same for the same seed and labels.
        strengths: Inverse regularisation strengths; the best mean is returned.
        seed: Of the folds.

    Raises:
        MageKitError: If a class has fewer images than folds, or a feature is not finite.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingExtraError("the linear probe", "digits") from None
    counts = np.bincount(features.labels_I)
    if len(counts) < 2 or counts[counts > 0].min() < folds:
        raise MageKitError(
            f"folds: {folds}, needs at least two classes with that many images each, has {counts.tolist()[:20]}"
        )
    if not np.isfinite(features.values_ID).all():
        raise MageKitError("features: not finite; the model's weights are damaged or its training diverged")
    splits = list(
        StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32).split(features.values_ID, features.labels_I)
    )
    results = []
    for strength in strengths:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations are part of the protocol
            scores = cross_val_score(classifier, features.values_ID, features.labels_I, cv=splits)
        results.append(Probe(float(scores.mean()), float(scores.std()), strength, folds))
    return max(results, key=lambda result: result.top1)


def probe_run(
    folder: Path, reporter: Reporter | None = None, sources: Sequence[FeatureSource] = (FeatureSource(),)
) -> dict[str, Any]:
    """Probe a trained run beside raw pixels and the untrained encoder: same folds, same strengths.

    The untrained model has the trained tokenizer and the recipe's initial weights. Pre-training saw the images (all of
    them, held-out folds too) without their labels.

    Args:
        folder: A run folder.
        reporter: Where progress goes.
        sources: Which features; the first one is called "linear_probe" in the result.

    Returns:
        {"linear_probe": ..., "untrained": ..., "raw_pixels": ...}, each a `Probe` as a dict, and "note", "data",
        "images", "data_sha256", "weights_sha256".
    """
    reporter = reporter or Reporter()
    require_folder(folder)
    model = load(folder, best_device())
    recipe = Recipe.load(folder / RECIPE_FILE)
    dataset = recipe.build_dataset()
    settings = evaluation_of(recipe)
    size = len(dataset) * dataset.channels * dataset.image_size[0] * dataset.image_size[1]
    if size > MOST_VALUES:
        rule = f"folds hold at most {MOST_VALUES:,} pixels in memory; name parts: mage-kit eval probe-fast --data"
        raise MageKitError(f"data: {len(dataset)} images of {size // len(dataset):,} values, {rule}")
    baseline = untrained_like(recipe, model)
    images, labels = still_images(dataset)
    pixels = images.flatten(1).numpy().astype(np.float32) / 255
    values, places = extract(model, dataset, sources, reporter=reporter)
    names = ["linear_probe", *(str(source) for source in sources[1:])]
    truth = labels_of(dataset)[places]
    inputs = {
        **{name: Features(value, truth) for name, value in zip(names, values, strict=True)},
        "untrained": extract_features(baseline, dataset, reporter=reporter),
        "raw_pixels": Features(pixels, labels),
    }
    result: dict[str, Any] = {}
    with reporter.task("linear probes", len(inputs)) as task:
        for done, (name, features) in enumerate(inputs.items(), start=1):
            probe = linear_probe(features, folds=settings.folds, strengths=settings.strengths, seed=recipe.seed)
            result[name] = asdict(probe)
            task.update(done, f"{name} {probe.top1:.4f}")
    result["data"], result["images"] = "the run's own images, in folds", len(labels)
    result["data_sha256"], result["weights_sha256"] = fingerprint(dataset), weights_digest(model)
    result["note"] = (
        f"mean of {settings.folds} stratified folds; features: {', '.join(map(str, sources))} of all tokens, "
        "nothing masked; "
        "pre-training saw all images, the held-out folds' too, without labels"
    )
    return result
