"""What runs can be measured by without files of the user's: the columns of a sweep that names none."""

from __future__ import annotations

from mage_kit.base.errors import MageKitError
from mage_kit.evaluation.folds import MOST_VALUES as IN_FOLDS
from mage_kit.evaluation.judging_networks import judging_networks
from mage_kit.evaluation.measures.at_hand import MOST_VALUES as AT_HAND
from mage_kit.models import Mage
from mage_kit.recipes import Recipe
from mage_kit.recipes.answers import evaluation_of, has_labels, has_parts, measured_images
from mage_kit.studies.measurement import Measurement
from mage_kit.training.check import check

PROBE = Measurement("linear probe", "probe-fast", "mean", "top1", {}, "higher", seeded=False)
ACCURACY = Measurement("accuracy", "accuracy", "classifier", "top1", {}, "higher", seeded=False)
LOSSES = tuple(
    Measurement(f"loss, {share} hidden", "tokens", f"{share} hidden", "loss", {}, "lower") for share in ("0.5", "0.9")
)


def default_measurements(recipe: Recipe) -> list[Measurement]:
    """Return the columns of runs of a recipe.

    A linear probe where images have labels, a Fréchet distance by a network that is named, losses of hidden tokens; of
    a classifier its accuracy. What the data set is too large for, or lacks, is left out.

    Raises:
        MageKitError: If nothing can be measured without being told how.
    """
    model = check(recipe).model
    if model is None:
        raise MageKitError(f"recipe: '{recipe.name}', makes a tokenizer alone; measurements must be named")
    if not isinstance(model, Mage):
        return [ACCURACY]
    images, labels = measured_images(recipe), has_labels(recipe)
    values = len(images) * images.channels * images.image_size[0] * images.image_size[1]
    columns = [PROBE] if labels and (has_parts(recipe) or values <= IN_FOLDS) else []
    network = _network(images.channels, labels)
    if values <= AT_HAND and network is not None:
        columns.append(frechet(evaluation_of(recipe).samples, network))
    return [*columns, *LOSSES]


def frechet(samples: int, network: str) -> Measurement:
    """Return the Fréchet distance of so many samples, by a network at hand."""
    options = {"n": samples, "network": network}
    return Measurement("Fréchet distance", "frechet", "samples", "frechet", options, "lower")


def _network(channels: int, labels: bool) -> str | None:
    """The first of a package that sees such images; else a classifier of the run's own classes; else none."""
    if channels == 3 and (network := next(judging_networks(), None)) is not None:
        return network.kind
    return "classifier" if labels else None
