"""The linear probe after each block of the encoder. Paper: Figure 6."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mage_kit.evaluation.feature_sources import FeatureSource
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.measures.base import MEASURES, Curves
from mage_kit.evaluation.measures.on_features import FeatureMeasure
from mage_kit.evaluation.measures.probe_fast import FAST, fit_row
from mage_kit.evaluation.subject import Subject

_SOURCE = re.compile(r"^(?:(.+) )?mean@(\d+)$")
_BLOCK = re.compile(r"(?:(.+), )?block (\d+)")


@MEASURES.register("blocks")
class BlockProbes(FeatureMeasure):
    """Linear probe after each block of the encoder, with a plot (paper, Figure 6).

    Args:
        baselines: Measure raw pixels and the untrained encoder too.
    """

    title: ClassVar[str] = "Linear probe by block"
    shown: ClassVar[tuple[str, ...]] = ("top1", "train_top1")

    def __init__(self, *, baselines: bool = True) -> None:
        super().__init__(baselines=baselines)

    def sources(self, subject: Subject) -> Sequence[FeatureSource]:
        """Return the mean over patches after each block."""
        count = len(getattr(subject.model.encoder, "blocks", [None]))
        return [FeatureSource(block=number) for number in range(1, count + 1)]

    def baseline_sources(self, subject: Subject) -> Sequence[FeatureSource]:
        """Return the same of the untrained encoder."""
        return self.sources(subject)

    def row(self, subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
        """Return top-1, and that on the training images."""
        return fit_row(subject, name, train, test)

    def rows(self, subject: Subject) -> dict[str, Any]:
        """Return them as "block 3", "untrained encoder, block 3", "raw pixels"."""
        return {_SOURCE.sub(_block_name, name): row for name, row in super().rows(subject).items()}

    def protocol(self, subject: Subject) -> str:
        """Return that of the fast probe."""
        return FAST

    @classmethod
    def curves(cls, result: Mapping[str, Any]) -> Curves:
        """Return top-1 over blocks, by model; what is of no block is a level line from the first to the last."""
        points: dict[str, list[tuple[float, float, float]]] = {}
        level: dict[str, float] = {}
        for name, row in result["rows"].items():
            if match := _BLOCK.fullmatch(name):
                points.setdefault(match[1] or "features", []).append((float(match[2]), float(row["top1"]), 0.0))
            else:
                level[name] = float(row["top1"])
        ends = sorted({x for curve in points.values() for x, _, _ in curve})
        for name, top1 in level.items() if ends else ():
            points[name] = [(x, top1, 0.0) for x in (ends[0], ends[-1])]
        return Curves("Linear probe after each block", "block", points)


def _block_name(match: re.Match[str]) -> str:
    of, number = match.groups()
    return f"{of}, block {number}" if of else f"block {number}"
