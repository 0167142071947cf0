"""What is evaluated: a run's model, and labelled images in two parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mage_kit.datasets import Dataset
from mage_kit.errors import MageKitError
from mage_kit.evaluation.feature_cache import FeatureCache
from mage_kit.evaluation.features import Features, extract, stills
from mage_kit.evaluation.sources import FeatureSource
from mage_kit.evaluation.splits import Split, folder_split, held_out, published_views
from mage_kit.loading import load
from mage_kit.model import Mage
from mage_kit.processes import is_first
from mage_kit.progress import Reporter
from mage_kit.recipe import Recipe
from mage_kit.storage import RECIPE_FILE, best_device, require_folder
from mage_kit.version import __version__

FEATURES = Path("eval") / "features"
_SIDE = 32  # of images whose raw pixels are classified; larger ones are averaged down


@dataclass(frozen=True)
class Subject:
    """A run under evaluation.

    Args:
        run: Its folder.
        recipe: Its recipe.
        model: Its model, in evaluation mode.
        split: Labelled images.
        cache: Features of the model.
        weights: "raw" or "ema".
        reporter: Where progress goes.
    """

    run: Path
    recipe: Recipe
    model: Mage
    split: Split
    cache: FeatureCache
    weights: str
    reporter: Reporter

    def features(self, sources: list[FeatureSource]) -> list[tuple[Features, Features]]:
        """Return (train, test) features of each source, from the cache where they are there."""
        name = "" if self.weights == "raw" else "ema-"
        pair = [self.cache.get(f"{name}{part}", data, sources) for part, data in self._parts()]
        return list(zip(*pair, strict=True))

    def baselines(self) -> dict[str, tuple[Features, Features]]:
        """Return what the features have to beat: raw pixels, and the same encoder with the recipe's first weights."""
        untrained = self.recipe.build_model(self.model.tokenizer).to(self.model.device).eval()
        made: dict[str, list[Features]] = {"raw pixels": [], "untrained encoder": []}
        for _, data in self._parts():
            labels = data.labels()
            values, places = extract(untrained, data, [FeatureSource()], reporter=self.reporter)
            made["untrained encoder"].append(Features(values[0], labels[places]))
            made["raw pixels"].append(_pixels(data, labels) if is_first() else made["untrained encoder"][-1])
        return {name: (parts[0], parts[1]) for name, parts in made.items()}

    def stated(self) -> dict[str, Any]:
        """Return what every result says of itself, ready for JSON."""
        return {
            "run": self.recipe.name,
            "weights": self.weights,
            "weights_sha256": self.cache.weights,
            "data": self.split.told,
            "train_images": len(self.split.train),
            "test_images": len(self.split.test),
            "classes": self.split.classes,
            "precision": self.cache.precision,
            "versions": {"mage_kit": __version__, "torch": torch.__version__},
        }

    def _parts(self) -> list[tuple[str, Any]]:
        return [("train", self.split.train), ("test", self.split.test)]


def open_subject(
    run: Path,
    data: Path | None = None,
    *,
    weights: Literal["raw", "ema"] = "raw",
    precision: Literal["float32", "bfloat16"] = "float32",
    seed: int = 0,
    refresh: bool = False,
    reporter: Reporter | None = None,
) -> Subject:
    """Load a run and its images.

    Args:
        run: Run or model folder.
        data: Folder with train/ and val/, or with class folders; None for the run's own images, a fifth set aside.
        weights: Raw, or the running mean.
        precision: What features are computed in.
        seed: Of what is set aside.
        refresh: Extract features again that do not fit.
        reporter: Where progress goes.

    Raises:
        MageKitError: If there is no such run, or its images have no labels.
    """
    reporter = reporter or Reporter()
    require_folder(run)
    model = load(run, best_device(), weights="ema") if weights == "ema" else load(run, best_device())
    recipe = Recipe.load(run / RECIPE_FILE)
    size = model.tokenizer.image_size
    augment = published_views(getattr(recipe.data, "augment", None), size)
    if data is None:
        images = _images(recipe)
        images.augment = augment
        split = held_out(images, seed)
        name = f"own-{seed}"
    else:
        split = folder_split(data, size, model.tokenizer.channels, augment, seed)
        name = f"{data.resolve().name}-{seed}"
    cache = FeatureCache(run / FEATURES / name, model, precision=precision, refresh=refresh, reporter=reporter)
    return Subject(run, recipe, model, split, cache, weights, reporter)


def _images(recipe: Recipe) -> Dataset:
    """Return the run's images; of a token cache those that it was made from."""
    if recipe.data is not None and recipe.data.kind == "token_cache":
        source = recipe.data.get("source")
        if source is None:
            raise MageKitError("data: the run was trained on cached tokens without images; name some with --data")
        return recipe.extended(data=source).build_dataset()
    return recipe.build_dataset()


def _pixels(data: Any, labels: np.ndarray) -> Features:
    """Raw pixels, averaged down to 32 x 32 where they are larger."""
    rows, places = [], []
    for sample in stills(data):
        view: Tensor = torch.from_numpy(sample.views[0]).float() / 255
        size = (min(_SIDE, view.shape[1]), min(_SIDE, view.shape[2]))
        rows.append(F.adaptive_avg_pool2d(view, size).flatten().numpy())
        places.append(sample.index)
    return Features(np.stack(rows), labels[places])
