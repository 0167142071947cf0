"""Classes of all tar files together: where labels stand, if nobody says so, and what they are numbered by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mage_kit.datasets.tar_index import TarIndex, tar_index
from mage_kit.datasets.tar_labels import FOLDER, NO_LABEL, NONE, PLAIN_LABEL, label_extension, number_labels
from mage_kit.datasets.tar_samples import SampleRules

_REPEATS = 2  # times that a label comes, on average: words that hardly repeat are captions
_RULE = 'data.label_from names where they stand, or "none"'


@dataclass(frozen=True)
class ShardLabels:
    """Tar files with the classes of their pictures.

    Args:
        indices: Of each file.
        classes: Names; none where there are no labels.
        labels_I: Class number of each picture, file by file, int64; NO_LABEL where it has none.
        unread: Labels that are no class: words among numbers.
        remark: What to know of the choice; "" if there is nothing.
    """

    indices: list[TarIndex]
    classes: tuple[str, ...]
    labels_I: NDArray[np.int64]
    unread: int
    remark: str = ""


def read_labels(tars: Sequence[Path], rules: SampleRules, label_from: str | None) -> ShardLabels:
    """Return the tar files' pictures with their classes.

    Args:
        tars: The files.
        rules: How members become samples; its label is taken where `label_from` is null and no other is evident.
        label_from: Where labels stand; None for wherever is evident.

    Raises:
        MageKitError: If one is no plain tar file.
    """
    rules = replace(rules, label=label_from or PLAIN_LABEL)
    indices = [tar_index(tar, rules) for tar in tars]
    if label_from is not None:
        return _number(indices, label_from)
    candidates = _candidates(indices)
    if PLAIN_LABEL in candidates or not candidates:
        return _number(indices, PLAIN_LABEL)
    if len(candidates) == 1 and candidates[0] in (FOLDER, "txt"):
        others = [tar_index(tar, replace(rules, label=candidates[0])) for tar in tars]
        labels = _number(others, candidates[0])
        if candidates[0] == FOLDER or len(labels.classes) * _REPEATS <= (labels.labels_I != NO_LABEL).sum():
            return labels
    words = [f'"{name}"' if name in (FOLDER, "txt") else f'"{name}:KEY"' for name in candidates]
    return replace(_number(indices, NONE), remark=f"no labels are taken; {' or '.join(words)} may hold some: {_RULE}")


def _candidates(indices: Sequence[TarIndex]) -> list[str]:
    """Where labels may stand."""
    extensions = Counter[str]()
    for index in indices:
        extensions.update(index.facts.extensions)
    folders = {folder for index in indices for folder in index.facts.folders}
    names = [name for name in (PLAIN_LABEL, "txt", "json") if extensions[name]]
    return [*names, FOLDER] if len(folders) > 1 else names


def _number(indices: list[TarIndex], label_from: str) -> ShardLabels:
    texts = sorted({text for index in indices for text in index.facts.texts})
    classes, numbers = number_labels(texts, words=label_from == FOLDER)
    parts, unread = [], 0
    for index in indices:
        table = np.array([*(numbers.get(text, NO_LABEL) for text in index.facts.texts), NO_LABEL], dtype=np.int64)
        part = table[index.labels_I]  # NO_LABEL is the last place
        unread += int(((part == NO_LABEL) & (index.labels_I != NO_LABEL)).sum())
        parts.append(part)
    return ShardLabels(indices, classes, np.concatenate(parts), unread if label_extension(label_from) else 0)
