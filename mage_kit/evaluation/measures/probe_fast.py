"""The fast linear probe: logistic regression on features that are extracted once."""

from __future__ import annotations

from typing import Any, ClassVar

from mage_kit.base.errors import MageKitError
from mage_kit.base.processes import is_first
from mage_kit.base.version import versions
from mage_kit.evaluation.features import Features
from mage_kit.evaluation.folds import probe_run
from mage_kit.evaluation.logistic import STRENGTHS, fit_best
from mage_kit.evaluation.measures.base import MEASURES, Outcome
from mage_kit.evaluation.measures.on_features import FeatureMeasure
from mage_kit.evaluation.measures.request import Request
from mage_kit.evaluation.subject import Subject
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import has_parts
from mage_kit.store.folders import RECIPE_FILE

FAST = (
    "L-BFGS (200 iterations at most) on standardised frozen features, no augmentation; strength chosen on a fifth of "
    f"the training images ({', '.join(f'{value:g}' for value in STRENGTHS)}); not the published protocol (mage-kit "
    "eval probe)"
)
_OF_FOLDS = {"linear_probe": "", "untrained": "untrained encoder", "raw_pixels": "raw pixels"}


def fit_row(subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
    """Return the accuracy of a logistic regression, its strength chosen on a fifth of the training images."""
    best = fit_best(
        train.values_ID,
        train.labels_I,
        classes=subject.split.classes,
        seed=subject.recipe.seed,
        device=subject.model.device,
    )
    top1 = best.model.accuracy(test.values_ID, test.labels_I)
    subject.reporter.say(f"linear probe, {name}: {top1:.4f}")
    train_top1 = best.model.accuracy(train.values_ID, train.labels_I)
    return {"top1": top1, "train_top1": train_top1, "strength": best.strength}


def _over_folds(request: Request) -> bool:
    """Nothing is named, and the run's own images are not in two parts."""
    file = request.run / RECIPE_FILE
    return request.data is None and not (file.is_file() and has_parts(Recipe.load(file)))


@MEASURES.register("probe-fast")
class FastProbe(FeatureMeasure):
    """Linear probe on cached features; without --data on the run's held-out part, or over folds of its images."""

    title: ClassVar[str] = "Linear probe, fast"
    shown: ClassVar[tuple[str, ...]] = ("top1", "train_top1")

    def check(self, request: Request) -> None:
        """Over folds the other options would not be followed."""
        if not (request.run / RECIPE_FILE).is_file() or not _over_folds(request):
            return
        names = [name for name in request.options() if name != "processes" or request.processes != 1]
        flags = ["--bf16" if name == "precision" else f"--{name}" for name in names]
        flags += [] if self.baselines else ["--no-baselines"]
        if flags:
            rule = "the probe over folds of a run's own images takes no such option; name images with --data to use it"
            raise MageKitError(f"{', '.join(flags)}: {rule}")

    def row(self, subject: Subject, name: str, train: Features, test: Features) -> dict[str, Any]:
        """Return top-1, and that on the training images."""
        return fit_row(subject, name, train, test)

    def protocol(self, subject: Subject) -> str:
        """Return what it is, and what it is not."""
        return FAST

    def run(self, request: Request) -> Outcome:
        """Probe parts of images; without any the run's own, in folds."""
        return Outcome(self._fold(request)) if _over_folds(request) else super().run(request)

    def _fold(self, request: Request) -> dict[str, Any]:
        """The first process alone: folds are fitted by one."""
        if not is_first():
            return {"rows": {}}
        result = probe_run(request.run, request.reporter, self._sources)
        run = Recipe.load(request.run / RECIPE_FILE).name
        about = {"run": run, "weights": "raw", "versions": versions()}
        about |= {name: result.pop(name) for name in ("weights_sha256", "data", "data_sha256", "images")}
        about["protocol"] = result.pop("note")
        return {**about, "rows": {_OF_FOLDS.get(name, name) or self.source[0]: row for name, row in result.items()}}

    @classmethod
    def heading(cls, result: Any) -> str:
        """Say if it was over folds."""
        return cls.title if "train_images" in result else "Linear probe over folds"
