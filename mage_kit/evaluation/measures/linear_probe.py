"""The linear probe as published. Paper: Table 2; supplement, Table 11."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mage_kit.evaluation.measures.base import MEASURES, Figure, Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.published_probe import published_probe
from mage_kit.planning.passes import Passes
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import contrasts_images, encoder_width
from mage_kit.recipes.probe import EPOCHS

_IMAGENET = (1_281_167, 50_000)
_PAPER: dict[tuple[int | None, bool], float] = {
    (768, False): 0.747,
    (1024, False): 0.789,
    (768, True): 0.782,
    (1024, True): 0.809,
}
"""Linear probing on ImageNet-1K, top-1, by the encoder's width and whether it is MAGE-C: the paper's Table 2."""


@MEASURES.register("probe")
class LinearProbe(Measure):
    """Linear probe as published: LARS, 90 epochs of random crops, batch norm (supplement, Table 11).

    Args:
        overrides: path=value of the classifier's recipe, as training.epochs=10; the result says in what it departs.
        baseline: Probe the untrained encoder too.
    """

    title: ClassVar[str] = "Linear probe"
    shown: ClassVar[tuple[str, ...]] = ("top1", "top5", "loss")
    takes: ClassVar[frozenset[str]] = frozenset({"data", "weights", "seed", "resume", "processes"})
    flags: ClassVar[Mapping[str, str]] = {"overrides": "--set"}

    def __init__(self, *, overrides: tuple[str, ...] = (), baseline: bool = False) -> None:
        self.overrides, self.baseline = overrides, baseline

    def run(self, request: Request) -> Outcome:
        """Train the probe, a run of its own in RUN/eval/probe/, and measure it."""
        result = published_probe(
            request.subject(), self.overrides, baseline=self.baseline, resume=request.resume,
            overwrite=request.overwrite,
        )  # fmt: skip
        return Outcome(result)

    @classmethod
    def heading(cls, result: Mapping[str, Any]) -> str:
        """Say whether it was as published."""
        return f"{cls.title}, {'published protocol' if result.get('as_published') else 'NOT as published'}"

    @classmethod
    def note(cls, result: Mapping[str, Any]) -> str:
        """Say how a baseline is had, where there is none."""
        hint = "" if "untrained encoder" in result["rows"] else "; no baseline (--baseline: the untrained encoder)"
        return super().note(result) + hint

    @classmethod
    def paper(cls, figure: Figure, result: Mapping[str, Any], recipe: Recipe | None) -> tuple[float | None, str]:
        """Return Table 2's accuracy of an encoder of that width, trained with or without contrast."""
        if figure.name != "top1" or figure.of != "features" or not result.get("as_published"):
            return None, "no figure of the paper's is of this protocol"
        if (result.get("train_images"), result.get("test_images")) != _IMAGENET:
            return None, "other data than the paper's (ImageNet-1K)"
        width = None if recipe is None else encoder_width(recipe)
        value = None if recipe is None else _PAPER.get((width, contrasts_images(recipe)))
        if value is None:
            return None, f"the paper has no figure of this measure and width ({width})"
        return value, "the paper's Table 2: same data and protocol, 1600 epochs of pre-training"

    def passes(self, train: int, test: int) -> Passes:
        """Ninety epochs of crops, once more for a baseline; of the frozen encoder nothing goes backward."""
        images = (EPOCHS * train + test) * (2 if self.baseline else 1)
        return Passes(tokenized=images, encoded=images)
