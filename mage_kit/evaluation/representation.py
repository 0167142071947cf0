"""Measures of frozen features: one function a command, each with its baselines, ready for JSON.

Paper: sections 4.2 and 4.3; Tables 3 and 11, Figures 5 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mage_kit.evaluation.features import Features
from mage_kit.evaluation.few_shot import SHOTS, STRENGTH, FewShot, few_shot
from mage_kit.evaluation.logistic import STRENGTHS, fit_best
from mage_kit.evaluation.neighbours import NEIGHBOURS, TEMPERATURE, knn_accuracy
from mage_kit.evaluation.sources import FeatureSource
from mage_kit.evaluation.subject import Subject, open_subject
from mage_kit.processes import is_first

_HEADLINE = 20  # neighbours


def probe_fast(subject: Subject, sources: Sequence[FeatureSource], baselines: bool = True) -> dict[str, Any]:
    """Logistic regression on the features of each source, its strength chosen on a fifth of the training images.

    Args:
        subject: What is evaluated.
        sources: Which features.
        baselines: Whether raw pixels and the untrained encoder are measured too.
    """
    rows, held = {}, _all(subject, sources, baselines)
    for name, (train, test) in held.items() if is_first() else ():
        fit = partial(fit_best, classes=subject.split.classes, seed=subject.recipe.seed, device=subject.model.device)
        chosen = fit(train.values_ID, train.labels_I)
        rows[name] = {
            "top1": chosen.model.accuracy(test.values_ID, test.labels_I),
            "train_top1": chosen.model.accuracy(train.values_ID, train.labels_I),
            "strength": chosen.strength,
        }
        subject.reporter.say(f"linear probe, {name}: {rows[name]['top1']:.4f}")
    protocol = (
        "L-BFGS (200 iterations at most) on standardised frozen features, no augmentation; strength chosen on a fifth "
        "of the training images "
        f"({', '.join(f'{value:g}' for value in STRENGTHS)}); not the published protocol (mage-kit eval probe)"
    )
    return {**subject.stated(), "protocol": protocol, "rows": rows}


def blocks(subject: Subject) -> dict[str, Any]:
    """The same after each block of the encoder: the paper's Figure 6."""
    count = len(getattr(subject.model.encoder, "blocks", [None]))
    made = probe_fast(subject, [FeatureSource(block=number) for number in range(1, count + 1)], baselines=False)
    rows = {str(number): row for number, row in enumerate(made.pop("rows").values(), start=1)}
    return {**made, "rows": rows}


def neighbours(subject: Subject, sources: Sequence[FeatureSource], baselines: bool = True) -> dict[str, Any]:
    """k-NN by cosine similarity."""
    rows, held = {}, _all(subject, sources, baselines)
    for name, (train, test) in held.items() if is_first() else ():
        found = knn_accuracy(train, test, subject.split.classes, device=subject.model.device)
        headline = _HEADLINE if _HEADLINE in found else max(found)
        rows[name] = {"top1": found[headline], "by_k": {str(count): value for count, value in found.items()}}
        subject.reporter.say(f"k-NN, {name}: {rows[name]['top1']:.4f} (k = {headline})")
    asked = ", ".join(str(count) for count in NEIGHBOURS)
    protocol = f"cosine similarity, votes exp(similarity / {TEMPERATURE}); k of {asked}, the headline {_HEADLINE}"
    return {**subject.stated(), "protocol": protocol, "rows": rows}


def shots(
    subject: Subject,
    sources: Sequence[FeatureSource],
    counts: Sequence[int] = SHOTS,
    seeds: int = 5,
    baselines: bool = True,
) -> dict[str, Any]:
    """Few-shot accuracies, mean and deviation over draws of the labelled images."""
    rows, held = {}, _all(subject, sources, baselines)
    for name, (train, test) in held.items() if is_first() else ():
        found = few_shot(train, test, subject.split.classes, shots=counts, seeds=seeds, device=subject.model.device)
        rows[name] = _curve(found)
        told = ", ".join(f"{each.shots}: {each.top1:.3f} ± {each.std:.3f}" for each in found)
        subject.reporter.say(f"few-shot, {name}: {told}")
    return {**subject.stated(), "protocol": _few_shot_protocol(seeds), "rows": rows}


def transfer(
    run: Path, folders: Sequence[Path], source: FeatureSource, count: int = 25, seeds: int = 5, **options: Any
) -> dict[str, Any]:
    """Few-shot on data sets that the model was not trained on; Figure 5 of the paper.

    Args:
        run: Run or model folder.
        folders: Each with class folders, or with train/ and val/.
        source: Which features.
        count: Labelled images of each class.
        seeds: Draws.
        options: As of `open_subject`.
    """
    rows: dict[str, Any] = {}
    names = [folder.resolve().name for folder in folders]
    stated: dict[str, Any] = {}
    for folder in folders:
        name = folder.resolve().name if names.count(folder.resolve().name) == 1 else str(folder)
        subject = open_subject(run, folder, **options)
        stated = subject.stated()
        found = partial(
            few_shot, classes=subject.split.classes, shots=[count], seeds=seeds, device=subject.model.device
        )
        ((train, test),) = subject.features([source])
        rows[name] = {
            "classes": subject.split.classes,
            "test_images": len(subject.split.test),
            "features": asdict(found(train, test)[0]),
            **{name: asdict(found(*pair)[0]) for name, pair in subject.baselines().items()},
        }
        subject.reporter.say(f"transfer, {name}: {rows[name]['features']['top1']:.4f}")
    kept = {
        name: value for name, value in stated.items() if name not in ("data", "train_images", "test_images", "classes")
    }
    return {**kept, "protocol": _few_shot_protocol(seeds), "shots": count, "rows": rows}


def _all(subject: Subject, sources: Sequence[FeatureSource], baselines: bool) -> dict[str, tuple[Features, Features]]:
    named = {str(source): pair for source, pair in zip(sources, subject.features(list(sources)), strict=True)}
    return {**named, **(subject.baselines() if baselines else {})}


def _curve(found: Sequence[FewShot]) -> dict[str, Any]:
    return {"top1": found[-1].top1, "by_shots": {str(each.shots): asdict(each) for each in found}}


def _few_shot_protocol(seeds: int) -> str:
    return (
        f"linear classifier (L-BFGS, strength {STRENGTH:g}, standardised features) on drawn images of each class, all "
        f"others unseen; tested on all test images; mean and sample deviation over {seeds} draws"
    )
