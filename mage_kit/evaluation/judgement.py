"""How good a run's images are, by a classifier of real ones: distances, sureness, balance. Small data sets with labels.

The distances are Fréchet distances of this classifier's features, named so; they are not FID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mage_kit.base.draws import generator
from mage_kit.base.progress import Reporter
from mage_kit.datasets import Dataset
from mage_kit.evaluation.features import still_images
from mage_kit.evaluation.frechet import frechet_distance
from mage_kit.evaluation.small_classifier import Classifier, Predictions, train_classifier
from mage_kit.models.mage import Mage

SURE = 0.9


@dataclass(frozen=True)
class SmallReference:
    """Real images and the classifier trained on them.

    Args:
        images_ICHW: float32 in [0, 1].
        classifier: Its features carry the distances.
        accuracy: Of the classifier, on the 20% it was not trained on.
        judgement: What it says of all real images.
        seed: Of the halves in `frechet_real`.
    """

    images_ICHW: Tensor
    classifier: Classifier
    accuracy: float
    judgement: Predictions
    seed: int

    def frechet_real(self) -> float:
        """Return the distance of a random half of the real images to the other half: the noise of the measure."""
        order = torch.randperm(len(self.images_ICHW), generator=generator(self.seed, "halves")).numpy()
        half = len(order) // 2
        return frechet_distance(self.judgement.features[order[:half]], self.judgement.features[order[half:]])


def make_small_reference(dataset: Dataset, seed: int, reporter: Reporter | None = None) -> SmallReference:
    """Train the classifier on labelled images.

    Args:
        dataset: At most some ten thousand images, which are all held in memory.
        seed: Of the classifier.
        reporter: Where progress goes.
    """
    pictures, numbers = still_images(dataset)
    images, labels = pictures.float() / 255, torch.from_numpy(numbers)
    classes = int(labels.max()) + 1
    classifier, accuracy = train_classifier(images, labels, classes, seed=seed, reporter=reporter)
    return SmallReference(images, classifier, accuracy, classifier.judge(images), seed)


def judge_samples(images_BCHW: Tensor, reference: SmallReference) -> dict[str, Any]:
    """Measure generated images: {"frechet", "sure_share", "class_shares"}."""
    judgement = reference.classifier.judge(images_BCHW)
    shares = np.bincount(judgement.classes, minlength=reference.classifier.head.out_features) / len(images_BCHW)
    return {
        "frechet": frechet_distance(judgement.features, reference.judgement.features),
        "sure_share": float((judgement.sureness >= SURE).mean()),
        "class_shares": shares.round(4).tolist(),
    }


def reconstruction_psnr(model: Mage, images_ICHW: Tensor) -> tuple[float, Tensor]:
    """Return the mean peak signal-to-noise ratio in dB of the tokenizer's reconstructions, and these."""
    with torch.no_grad():
        parts = (part.to(model.device) for part in images_ICHW.split(256))
        outputs = torch.cat([model.tokenizer.decode(model.tokenizer.encode(part)).clamp(0, 1).cpu() for part in parts])
    error = (outputs - images_ICHW).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean()), outputs


def nearest_real(images_BCHW: Tensor, real_ICHW: Tensor) -> Tensor:
    """Return, for each image, the real one at the smallest pixel distance: copies would show."""
    distances = torch.cdist(images_BCHW.flatten(1), real_ICHW.flatten(1))
    return real_ICHW[distances.argmin(dim=1)]
