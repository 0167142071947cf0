"""Measures of frozen features: what they share is the extraction, and what every feature has to beat.

Paper: sections 4.2 and 4.3; Tables 3 and 11, Figures 5 and 6.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from mage_kit.base.errors import MageKitError
from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.measures.base import Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.subject import Subject
from mage_kit.planning.passes import Passes

Sources = Annotated[tuple[str, ...], Field(min_length=1)]
UNTRAINED = (FeatureSource(),)


class FeatureMeasure(Measure):
    """Measures features of labelled images, beside raw pixels and the untrained encoder.

    Args:
        source: Features: mean or class, @BLOCK, +norm, as class@11+norm; several may be named.
        baselines: Measure raw pixels and the untrained encoder too.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"data", "weights", "seed", "precision", "refresh", "processes"})

    def __init__(self, *, source: Sources = ("mean",), baselines: bool = True) -> None:
        self.source, self.baselines = tuple(dict.fromkeys(source)), baselines
        self._sources = [FeatureSource.parse(text) for text in self.source]

    @abstractmethod
    def row(self, subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
        """Return what one kind of features is worth, ready for JSON.

        Args:
            subject: What is evaluated.
            name: Of the features, as "raw pixels".
            train: Features and labels to learn from, float32 (I, D) and int64 (I,).
            test: To test on.
        """

    @abstractmethod
    def protocol(self, subject: Subject) -> str:
        """Return how it is measured, in a line."""

    def prepare(self, subject: Subject) -> None:  # most take any images
        """Raise MageKitError for images that do not fit, before anything is extracted."""

    def sources(self, subject: Subject) -> Sequence[FeatureSource]:
        """Return which features are measured."""
        return self._sources

    def baseline_sources(self, subject: Subject) -> Sequence[FeatureSource]:
        """Return which features of the untrained encoder are measured beside."""
        return UNTRAINED

    def rows(self, subject: Subject) -> dict[str, Any]:
        """Return what each kind of features is worth, by its name; nothing in all processes but the first."""
        baselines = self.baseline_sources(subject) if self.baselines else None
        return subject.measured(self.sources(subject), partial(self._checked_row, subject), baselines)

    def _checked_row(self, subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
        """A row that is none is told at once, not after the others have taken their hours."""
        row = self.row(subject, name, train, test)
        if not isinstance(row, dict) or not row or not all(isinstance(key, str) for key in row):
            rule = "must be {name: number}"
            raise MageKitError(f"measure: {type(self).__name__}.row gave {row!r:.100} for '{name}', {rule}")
        return row

    def run(self, request: Request) -> Outcome:
        """Open the run and its images, and measure."""
        return self.measure(request.subject())

    def measure(self, subject: Subject) -> Outcome:
        """Extract features, all processes together, and measure them, the first process alone."""
        self.prepare(subject)
        rows = self.rows(subject)
        return Outcome({**subject.stated(), "protocol": self.protocol(subject), "rows": rows})

    def passes(self, train: int, test: int) -> Passes:
        """Every image once through tokenizer and encoder, and once more through the untrained one."""
        images = train + test
        return Passes(tokenized=images, encoded=images * (2 if self.baselines else 1))
