"""Few-shot classification of data sets that the model was not trained on. Paper: Figure 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mage_kit.base.errors import MageKitError
from mage_kit.base.fields import Positive
from mage_kit.base.processes import first_ahead
from mage_kit.datasets import Dataset
from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.measures.base import MEASURES, Figure, Measure, Outcome
from mage_kit.evaluation.measures.few_labels import Draws, check_shots, few_shot, few_shot_protocol
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.subject import Subject
from mage_kit.planning.passes import Passes

_OF_DATA = ("data", "data_sha256", "train_images", "test_images", "classes")
_ROWS = ("features", "untrained encoder", "raw pixels")


@MEASURES.register("transfer")
class Transfer(Measure):
    """Few-shot classification on other data sets, in one table (paper, Figure 5).

    Args:
        folders: Data sets: folders of class folders, or of train/ and val/.
        source: Features: mean or class, @BLOCK, +norm, as class@11+norm.
        shots: Labelled images of each class.
        draws: Draws of these images.
    """

    title: ClassVar[str] = "Few-shot transfer"
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "seed", "precision", "refresh", "processes"})

    def __init__(
        self, *, folders: tuple[Path, ...], source: str = "mean", shots: Positive = 25, draws: Draws = 5
    ) -> None:
        if not folders:
            raise MageKitError("folders: none, must be at least one")
        self.folders, self.source, self.shots, self.draws = folders, source, shots, draws
        self._source = FeatureSource.parse(source)

    def run(self, request: Request) -> Outcome:
        """Measure each data set, features beside raw pixels and the untrained encoder."""
        subjects = self._open_all(request)
        rows = {name: self._row(name, subject) for name, subject in subjects.items()}
        facts = next(iter(subjects.values())).stated()
        for name in _OF_DATA:
            del facts[name]
        return Outcome({**facts, "protocol": few_shot_protocol(self.draws), "shots": self.shots, "rows": rows})

    def _row(self, name: str, subject: Subject) -> dict[str, Any]:
        def measure(_: str, train: Features, test: Features) -> dict[str, Any]:
            classes, device = subject.split.classes, subject.model.device
            (accuracy,) = few_shot(train, test, classes, shots=[self.shots], seeds=self.draws, device=device)
            return asdict(accuracy)

        rows = subject.measured([self._source], measure)
        if rows:
            subject.reporter.say(f"transfer, {name}: {rows[self.source]['top1']:.4f}")
        facts = {name: value for name, value in subject.stated().items() if name in _OF_DATA}
        return {**facts, **{"features" if row == self.source else row: value for row, value in rows.items()}}

    def _open_all(self, request: Request) -> dict[str, Subject]:
        """Open all data sets before any is measured: the last of them must not cost the others their figures."""
        names = [folder.resolve().name for folder in self.folders]
        subjects: dict[str, Subject] = {}
        for folder, name in zip(self.folders, names, strict=True):
            label = name if names.count(name) == 1 else str(folder)
            if label in subjects:
                raise MageKitError(f"data: '{folder}', given twice")
            subjects[label] = request.subject(folder, like=next(iter(subjects.values()), None))
            first_ahead(partial(_check_shots, folder, subjects[label].split.train, self.shots))
        return subjects

    @classmethod
    def heading(cls, result: Mapping[str, Any]) -> str:
        """Say how many labels there were."""
        return f"{cls.title}, {result['shots']} a class"

    @classmethod
    def figures(cls, result: Mapping[str, Any]) -> list[Figure]:
        """Return mean and deviation of each data set's features and of what they have to beat."""
        return [
            Figure(of, f"top1, {name}", float(row[name]["top1"]), float(row[name]["std"]), row)
            for of, row in result["rows"].items()
            for name in _ROWS
            if name in row
        ]

    def passes(self, train: int, test: int) -> Passes:
        """Every image once through the tokenizer, and through the trained and the untrained encoder."""
        images = (train + test) * len(self.folders)
        return Passes(tokenized=images, encoded=2 * images)


def _check_shots(folder: Path, train: Dataset, count: int) -> None:
    try:
        check_shots(train.labels(), train.classes, [count])
    except MageKitError as error:
        raise MageKitError(f"data: '{folder}': {error}") from None
