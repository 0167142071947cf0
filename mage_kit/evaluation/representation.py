"""Measures of frozen features: one function a command, each with its baselines, ready for JSON.

Paper: sections 4.2 and 4.3; Tables 3 and 11, Figures 5 and 6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import first_ahead
from mage_kit.datasets import Dataset
from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.few_shot import SHOTS, STRENGTH, check_shots, few_shot
from mage_kit.evaluation.logistic import STRENGTHS, fit_best
from mage_kit.evaluation.neighbours import NEIGHBOURS, TEMPERATURE, knn_accuracy
from mage_kit.evaluation.subject import Subject, open_subject

_HEADLINE = 20  # neighbours
_OF_DATA = ("data", "data_sha256", "train_images", "test_images", "classes")
_UNTRAINED = (FeatureSource(),)
_FAST = (
    "L-BFGS (200 iterations at most) on standardised frozen features, no augmentation; strength chosen on a fifth of "
    f"the training images ({', '.join(f'{value:g}' for value in STRENGTHS)}); not the published protocol (mage-kit "
    "eval probe)"
)


def probe_fast(subject: Subject, sources: Sequence[FeatureSource], baselines: bool = True) -> dict[str, Any]:
    """Logistic regression on the features of each source, its strength chosen on a fifth of the training images.

    Args:
        subject: What is evaluated.
        sources: Which features.
        baselines: Whether raw pixels and the untrained encoder are measured too.
    """
    rows = subject.measured(sources, partial(_fitted, subject), _UNTRAINED if baselines else None)
    return {**subject.stated(), "protocol": _FAST, "rows": rows}


def blocks(subject: Subject, baselines: bool = True) -> dict[str, Any]:
    """The same after each block of the encoder, trained and untrained: the paper's Figure 6.

    Returns:
        Its `rows` are called "block 3", "untrained encoder, block 3", "raw pixels".
    """
    count = len(getattr(subject.model.encoder, "blocks", [None]))
    sources = [FeatureSource(block=number) for number in range(1, count + 1)]
    found = subject.measured(sources, partial(_fitted, subject), sources if baselines else None)
    named = {re.sub(r"^(?:(.+) )?mean@(\d+)$", _block_name, name): row for name, row in found.items()}
    return {**subject.stated(), "protocol": _FAST, "rows": named}


def neighbours(
    subject: Subject,
    sources: Sequence[FeatureSource],
    counts: Sequence[int] = NEIGHBOURS,
    baselines: bool = True,
) -> dict[str, Any]:
    """k-NN by cosine similarity; numbers of neighbours above that of the training images are left out."""

    def measure(name: str, train: Features, test: Features) -> dict[str, Any]:
        found = knn_accuracy(train, test, subject.split.classes, counts=counts, device=subject.model.device)
        headline = _HEADLINE if _HEADLINE in found else max(found)
        subject.reporter.say(f"k-NN, {name}: {found[headline]:.4f} (k = {headline})")
        return {"top1": found[headline], "k": headline, "by_k": {str(count): value for count, value in found.items()}}

    rows = subject.measured(sources, measure, _UNTRAINED if baselines else None)
    asked = ", ".join(str(count) for count in counts)
    left_out = [str(count) for count in counts if count > len(subject.split.train)]
    protocol = f"cosine similarity, votes exp(similarity / {TEMPERATURE}); k of {asked}"
    protocol += f" ({', '.join(left_out)} left out: fewer training images)" if left_out else ""
    protocol += f"; the headline is k = {_HEADLINE}, or else the largest"
    return {**subject.stated(), "protocol": protocol, "rows": rows}


def shots(
    subject: Subject,
    sources: Sequence[FeatureSource],
    counts: Sequence[int] = SHOTS,
    seeds: int = 5,
    baselines: bool = True,
) -> dict[str, Any]:
    """Few-shot accuracies, mean and deviation over draws of the labelled images.

    Raises:
        MageKitError: If a class has fewer training images than a number asks for; before anything is extracted.
    """
    train = subject.split.train
    first_ahead(lambda: check_shots(train.labels(), train.classes, counts))

    def measure(name: str, train: Features, test: Features) -> dict[str, Any]:
        found = few_shot(train, test, subject.split.classes, shots=counts, seeds=seeds, device=subject.model.device)
        told = ", ".join(f"{each.shots}: {each.top1:.3f} ± {each.std:.3f}" for each in found)
        subject.reporter.say(f"few-shot, {name}: {told}")
        return {"top1": found[-1].top1, "by_shots": {str(each.shots): asdict(each) for each in found}}

    rows = subject.measured(sources, measure, _UNTRAINED if baselines else None)
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
    subjects = _opened(run, folders, count, options)
    rows: dict[str, Any] = {}
    for name, subject in subjects.items():

        def measure(_: str, train: Features, test: Features, subject: Subject = subject) -> dict[str, Any]:
            device = subject.model.device
            return asdict(few_shot(train, test, subject.split.classes, shots=[count], seeds=seeds, device=device)[0])

        found = subject.measured([source], measure)
        rows[name] = {
            **{name: value for name, value in subject.stated().items() if name in _OF_DATA},
            **{"features" if row == str(source) else row: value for row, value in found.items()},
        }
        if found:
            subject.reporter.say(f"transfer, {name}: {rows[name]['features']['top1']:.4f}")
    stated = next(iter(subjects.values())).stated()
    for name in _OF_DATA:
        del stated[name]
    return {**stated, "source": str(source), "protocol": _few_shot_protocol(seeds), "shots": count, "rows": rows}


def _opened(run: Path, folders: Sequence[Path], count: int, options: dict[str, Any]) -> dict[str, Subject]:
    """Open all data sets before any is measured: the last of them must not cost the others their figures."""
    names = [folder.resolve().name for folder in folders]
    made: dict[str, Subject] = {}
    for folder, name in zip(folders, names, strict=True):
        called = name if names.count(name) == 1 else str(folder)
        if called in made:
            raise MageKitError(f"data: '{folder}', given twice")
        made[called] = open_subject(run, folder, model=next(iter(made.values())).model if made else None, **options)
        train = made[called].split.train
        first_ahead(partial(_check_shots, folder, train, count))
    return made


def _check_shots(folder: Path, train: Dataset, count: int) -> None:
    try:
        check_shots(train.labels(), train.classes, [count])
    except MageKitError as error:
        raise MageKitError(f"data: '{folder}': {error}") from None


def _fitted(subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
    chosen = fit_best(
        train.values_ID,
        train.labels_I,
        classes=subject.split.classes,
        seed=subject.recipe.seed,
        device=subject.model.device,
    )
    top1 = chosen.model.accuracy(test.values_ID, test.labels_I)
    subject.reporter.say(f"linear probe, {name}: {top1:.4f}")
    return {
        "top1": top1,
        "train_top1": chosen.model.accuracy(train.values_ID, train.labels_I),
        "strength": chosen.strength,
    }


def _block_name(found: re.Match[str]) -> str:
    of, number = found.groups()
    return f"{of}, block {number}" if of else f"block {number}"


def _few_shot_protocol(seeds: int) -> str:
    return (
        f"linear classifier (L-BFGS, strength {STRENGTH:g}, standardised features) on drawn images of each class, all "
        f"others unseen; tested on all test images; mean and sample deviation over {seeds} draws"
    )
